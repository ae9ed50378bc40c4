"""A process beside the server that knows the ML framework: the initial model, and metrics of each version.

The server itself never imports torch: it holds one model and one sum, and folds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from muster.core.errors import TrainingError, UserError
from muster.core.examples import Facts
from muster.core.params import ParamSpec, Vector
from muster.core.spawn import without_main
from muster.core.storage import IN_MEMORY, Storage, parts, release
from muster.core.store import decode, encode
from muster.job.settings import Engine
from muster.learn.learner import Learner
from muster.learn.numerics import Numerics
from muster.models.dense import Dense
from muster.models.model import Model


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    spec: ParamSpec
    initial: Vector
    backend: Literal["torch", "numpy", "numba", "jax"]
    data: Path
    """Folder of the prepared data."""
    numerics: Numerics
    """How everybody rounds."""
    storage: Storage = IN_MEMORY
    """Where models are kept."""
    num_tested: int | None = None
    """Test examples that a model is evaluated on, where they are a sample; else None."""

    def engine(self, asked: Engine) -> Engine:
        """The job's engine, with what was chosen in place of what was asked for."""
        return replace(asked, backend=self.backend).with_numerics(self.numerics)


class Examiner:
    """The process, and what is asked of it.

    Args:
        job: Path of the job file.

    """

    def __init__(self, job: Path) -> None:
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_live, args=(theirs, str(job)), daemon=True)
        with without_main():
            self._process.start()
        theirs.close()

    def start(self, folder: Path, memory_mb: float | None, spare: bool = False) -> Start:
        """What it says when it is ready, once; the untrained model is the caller's alone.

        Args:
            folder: Where a large model is kept.
            memory_mb: What a large model is: see `Deploy`.
            spare: The untrained model may not be needed: it is kept on disk in any case.

        Raises:
            UserError: The job cannot be run with this data or what is installed.
        """
        answer = self._receive()
        spec = ParamSpec.from_json(json.loads(answer["spec"]))
        backend, data, numerics = answer["backend"], Path(answer["data"]), Numerics(**answer["numerics"])
        storage = Storage.fitting(folder, spec.num_bytes, memory_mb)
        initial = (Storage(folder) if spare else storage).empty(spec.size)
        with self._there():
            receive(self._pipe, initial)
        return Start(spec, initial, backend, data, numerics, storage, answer["num_tested"])

    def examine(self, params: Vector) -> Mapping[str, float]:
        """The metrics of a model over all test examples.

        Raises:
            TrainingError: The process has died, or evaluation failed.
        """
        with self._there():
            send(self._pipe, params)
        metrics: dict[str, float] = self._receive()["metrics"]
        return metrics

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Talks to the process, unless it has died."""
        try:
            yield
        except (EOFError, OSError):
            self._process.join(5)
            raise TrainingError(f"the examiner died (exit code {self._process.exitcode})") from None

    def _receive(self) -> dict[str, Any]:
        with self._there():
            answer = decode(self._pipe.recv_bytes())
        if "error" in answer:
            raise UserError(answer["error"]) if answer["mistake"] else TrainingError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def send(pipe: connection.Connection, vector: Vector) -> None:
    """Sends a vector part by part: no copy of it is made."""
    for part in parts(len(vector), vector):
        pipe.send_bytes(np.ascontiguousarray(vector[part]).view(np.uint8).data)


def receive(pipe: connection.Connection, vector: Vector) -> None:
    """Fills a vector with what `send` sends."""
    for part in parts(len(vector), vector):
        pipe.recv_bytes_into(vector[part].view(np.uint8).data)


def _live(pipe: connection.Connection, job: str) -> None:
    """The life of the process: the start, then metrics for models, until the pipe closes."""
    import signal
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends us
    try:
        crew, start, initial = _prepared(Path(job))
        size = len(initial)
        pipe.send_bytes(encode(start))
        send(pipe, initial)
        del initial
        while pipe.poll(None):
            receive(pipe, params := np.empty(size, np.float32))
            pipe.send_bytes(encode({"metrics": crew.evaluate(0, params)}))
            del params
    except (EOFError, OSError):
        return
    except UserError as error:
        pipe.send_bytes(encode({"error": str(error), "mistake": True}))
    except Exception:
        pipe.send_bytes(
            encode({"error": f"the examiner failed:\n{traceback.format_exc()}", "mistake": False})
        )


def _prepared(path: Path) -> tuple[Any, dict[str, Any], Vector]:
    """Who evaluates, what the server has to know, and the untrained model."""
    from muster.core.sums import FixedPointSum
    from muster.data.store import prepare
    from muster.job import check_population, load_job
    from muster.learn.accumulator import Folding
    from muster.learn.crew import Inline
    from muster.learn.device import choose_device
    from muster.learn.learners import choose_backend, make_learner
    from muster.learn.trainer import Trainer

    job = load_job(path)
    data = prepare(job.data, job.seed_of("data"))
    check_population(job, data.num_clients)
    backend, local = choose_backend(job.engine.backend, job.model), job.algorithm.local
    numerics = job.engine.numerics.on(choose_device(job.engine.device, job.engine.backend, job.model))
    learner = make_learner(backend, job.model, job.task, data.facts, local, local.work(job.train), numerics)
    seed, sample = job.seed_of("training"), job.track.evaluate_sample
    folding = Folding(job.algorithm.combine, 1.0, 0, seed, local, attack=job.attack)
    crew = Inline(Trainer(learner, data, folding, FixedPointSum(0, 0)), sample)
    start = {
        "spec": json.dumps(learner.spec.to_json()),
        "backend": backend,
        "data": str(data.path),
        "numerics": asdict(learner.numerics),
        "num_tested": sample if 0 < sample < len(data.test) else None,
    }
    storage = Storage.fitting(path.parent, learner.spec.num_bytes, job.deploy.memory_mb)
    return crew, start, _initial(learner, job.model, data.facts, job.seed_of("model"), storage)


def _initial(learner: Learner, model: Model, facts: Facts, seed: int, storage: Storage) -> Vector:
    """The untrained model; of a large one no more than an array is in memory, if it can be drawn so."""
    if storage.folder is None or not isinstance(model, Dense):
        return np.asarray(learner.initial(seed))
    spec, vector = learner.spec, storage.empty(learner.spec.size)  # of zeros: a new file
    entries = {entry.name: entry for entry in spec.entries}
    for name, array in model.drawn(facts, seed):
        entry = entries[name]
        flat = vector[entry.offset : entry.offset + entry.size]
        flat[:] = array.reshape(-1)
        release(flat)
    return vector

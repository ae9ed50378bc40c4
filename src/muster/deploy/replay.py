"""`muster replay DIR`: a deployed run again, from its files alone: the same bits or an error."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from muster.core.errors import RunFolderError
from muster.data.federated import FederatedData
from muster.job import load_job
from muster.net.journal import JOURNAL
from muster.net.received import Received
from muster.track.folder import JOB, RunFolder, to_stderr

from .assembly import CLIENTS, Assembly, assemble, deliver_all, errand_of, take_up
from .examiner import Examiner
from .local_training import LocalTraining
from .relearn import TOLERANCE, Relearning


def replay(path: Path, *, relearn: bool = False, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Delivers a run's journal and updates to a conductor of its own; nothing in the folder is changed.

    Args:
        path: The run's folder.
        relearn: Learn every update again, from version 0 on, on the job's data, and compare it with the one
            that came; one that is no longer there is replaced.
        tolerance: How far they may be apart, as a share of the update's length.

    Returns:
        JSON data: the version, the hash of its model, and the version that the replay began with: 0 if the
        updates were kept (`deploy.keep_updates`), else that of a checkpoint. With `relearn` also how many
        updates were learnt again, how many of them to the bit, and the largest difference.

    Raises:
        RunFolderError: There is no deployed run, an update is missing, or a version came out as another; or
            an update that is learnt again is another.

    """
    folder = RunFolder.open(path)
    if not (path / JOURNAL).is_file():
        raise RunFolderError(f"{path} has no {JOURNAL}: only deployed runs can be replayed")
    job, summary = load_job(path / JOB), folder.read_summary()
    with closing(Examiner(path / JOB)) as examiner:
        start = examiner.start(path, job.deploy.memory_mb)
    make_crew: Callable[..., Received] = Received
    if relearn:
        data = FederatedData.open(start.data)
        training = LocalTraining(errand_of(job, start, data), data)
        make_crew = partial(Relearning, training=training, tolerance=tolerance)
    with tempfile.TemporaryDirectory(prefix="muster-replay-") as aside:
        store = Path(aside) / CLIENTS

        def make() -> Assembly:
            shutil.rmtree(store, ignore_errors=True)
            if (path / CLIENTS).is_dir():
                shutil.copytree(path / CLIENTS, store)
            return assemble(
                job, path, start, lambda params: {}, store=store, evaluates=False, make_crew=make_crew
            )

        learnt: dict[str, Any] = {}
        if relearn:
            made = make()
            assert isinstance(made.crew, Relearning)
            made.conductor.handed = made.crew.note
            deliver_all(made, path / JOURNAL, 0)
            learnt = made.crew.to_json()
        else:
            made, _ = take_up(make, path, to_stderr, newest=False)
        first = made.records[0].version - 1 if made.records else made.conductor.state.version
        sha256 = made.spec.sha256(made.plane.result)
        version = made.conductor.state.version
        made.plane.close()
    if summary is not None and summary.model_sha256 != sha256:
        raise RunFolderError(
            f"{path}: the replay ended with model {sha256[:16]}..., the run with "
            f"{str(summary.model_sha256)[:16]}..."
        )
    return {"status": "ok", "version": version, "first": max(first, 0), "model_sha256": sha256, **learnt}

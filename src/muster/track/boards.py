"""What others draw: TensorBoard and Weights & Biases, as sinks that a run does not depend on.

Whatever goes wrong in one, a package that is not installed or a full disk, is told once; the run goes on
without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from muster.core.record import Record

from .sink import RunPlan, Sink
from .summary import Summary

Say = Callable[[str], None]


def boards(names: tuple[str, ...], say: Say) -> list[Sink]:
    """The sinks of these names, each guarded; `say` is told what goes wrong.

    Args:
        names: Of BOARDS.
        say: The console's.
    """
    return [Guarded(name, BOARDS[name](), say) for name in names]


def scalars(record: Record) -> dict[str, float]:
    """A version's numbers by the names that they have on a board: `test/accuracy`, `clients/late`."""
    found: dict[str, float | None] = {f"test/{name}": value for name, value in record.metrics.items()}
    found["train/loss"] = record.loss
    found["clients/online"] = record.num_online
    for kind in ("sent", "accepted", "refused", "late", "lost", "discarded"):
        found[f"clients/{kind}"] = getattr(record, f"num_{kind}")
    found |= {"bytes/up": record.up_bytes, "bytes/down": record.down_bytes}
    found |= {"device_secs/used": record.device_secs_used, "device_secs/wasted": record.device_secs_wasted}
    found |= {"time/virtual_secs": record.now_secs, "time/wall_secs": record.wall_secs}
    return {name: float(value) for name, value in found.items() if value is not None}


class Guarded:
    """A sink whose failure ends the sink, not the run.

    Args:
        name: What it is called, in a job file and as an extra to install.
        sink: Told all that happens, until it fails.
        say: Told why it failed.
    """

    def __init__(self, name: str, sink: Sink, say: Say) -> None:
        self._name, self._say = name, say
        self._sink: Sink | None = sink

    def begin(self, plan: RunPlan) -> None:
        """The run starts, or goes on."""
        self._do(lambda sink: sink.begin(plan))

    def tell(self, record: Record) -> None:
        """A version was made."""
        self._do(lambda sink: sink.tell(record))

    def say(self, line: str) -> None:
        """A notice."""
        self._do(lambda sink: sink.say(line))

    def end(self, summary: Summary) -> None:
        """The run ended."""
        self._do(lambda sink: sink.end(summary))

    def _do(self, act: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            act(self._sink)
        except ImportError:
            self._sink = None
            name = self._name
            self._say(f"no {name}: it is not installed; get it with: pip install 'muster-fl[{name}]'")
        except Exception as error:  # a package of others: it may raise anything
            self._sink = None
            self._say(f"no more {self._name}: {type(error).__name__}: {error}; the run goes on without it")


class TensorBoard:
    """Event files in the run folder's `tensorboard/`, written without torch or TensorFlow.

    A run that goes on strikes out the steps that it makes anew.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def begin(self, plan: RunPlan) -> None:
        """Opens a file."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str((plan.out or Path()) / "tensorboard"), flush_secs=10)
        if plan.resumed_from is not None:
            log = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=plan.resumed_from + 1, session_log=log))

    def tell(self, record: Record) -> None:
        """Writes the version's numbers; the step is the version."""
        from time import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary as Values

        values = [Values.Value(tag=tag, simple_value=value) for tag, value in scalars(record).items()]
        self._writer.add_event(Event(wall_time=time(), step=record.version, summary=Values(value=values)))

    def say(self, line: str) -> None:
        """Notices are not numbers."""

    def end(self, summary: Summary) -> None:
        """Closes the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases in the run folder's `wandb/`: offline unless WANDB_MODE says otherwise.

    `wandb sync` sends it. A run that goes on is a second one in the same group.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, plan: RunPlan) -> None:
        """Opens a run, with the plan as its configuration."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project="muster",
            name=(plan.out or Path(plan.name)).name,
            group=plan.name,
            dir=str(plan.out or Path()),
            mode=mode,
            config=plan.to_json(),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def tell(self, record: Record) -> None:
        """Logs the version's numbers; the step is the version."""
        self._run.log(scalars(record), step=record.version)

    def say(self, line: str) -> None:
        """Notices are not numbers."""

    def end(self, summary: Summary) -> None:
        """Hands over the summary, and closes."""
        self._run.summary.update({"status": summary.status, "model_sha256": summary.model_sha256})
        self._run.finish()


BOARDS: Mapping[str, Callable[[], Sink]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""What `track.sinks` can name."""

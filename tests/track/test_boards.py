"""TensorBoard and Weights & Biases: what they are told, and that a run survives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest

from muster.core.record import Record
from muster.track.boards import BOARDS, Guarded, TensorBoard, WeightsAndBiases, boards, scalars
from muster.track.sink import RunPlan
from worlds.summaries import summarise

RECORDS = [
    Record(0, 0.0, 0.1, metrics={"accuracy": 0.1}, num_online=7),
    Record(1, 60.0, 1.0, 2.5, num_accepted=3, num_late=1, up_bytes=10, down_bytes=30, device_secs_used=5.0),
]
ENDED = summarise(RECORDS, "rounds", "done", None, 1, "cafe", 0)


def plan(path, **changes):
    return RunPlan("x", "fedavg", "d", "m", 4, 1, 4, out=path, **changes)


def test_numbers_have_names_and_what_is_not_known_is_left_out():
    first, second = map(scalars, RECORDS)
    assert first["test/accuracy"] == 0.1 and first["clients/online"] == 7.0 and "train/loss" not in first
    assert second["train/loss"] == 2.5 and "clients/online" not in second
    assert (second["clients/accepted"], second["clients/late"], second["time/virtual_secs"]) == (
        3.0,
        1.0,
        60.0,
    )
    assert (second["bytes/up"], second["bytes/down"], second["device_secs/used"]) == (10.0, 30.0, 5.0)


@dataclass
class Failing:
    """Fails with `error` at the call named `at`."""

    error: Exception
    at: str
    calls: list[str] = field(default_factory=list)

    def _called(self, name):
        self.calls.append(name)
        if name == self.at:
            raise self.error

    def begin(self, plan):
        self._called("begin")

    def tell(self, record):
        self._called("tell")

    def say(self, line):
        self._called("say")

    def end(self, summary):
        self._called("end")


@pytest.mark.parametrize("at", ["begin", "tell", "say", "end"])
def test_a_sink_that_fails_is_told_of_once_and_left_alone(at, tmp_path):
    said, sink = [], Failing(OSError("disk full"), at)
    guarded = Guarded("tensorboard", sink, said.append)
    guarded.begin(plan(tmp_path))
    for record in RECORDS:
        guarded.tell(record)
        guarded.say("a notice")
    guarded.end(ENDED)
    assert said == ["no more tensorboard: OSError: disk full; the run goes on without it"]
    assert sink.calls.count(at) == 1 and sink.calls[-1] == at


def test_a_package_that_is_missing_is_told_with_what_to_install(tmp_path):
    said = []
    Guarded("wandb", Failing(ImportError("no"), "begin"), said.append).begin(plan(tmp_path))
    assert said == ["no wandb: it is not installed; get it with: pip install 'muster-fl[wandb]'"]


def test_boards_by_name():
    assert set(BOARDS) == {"tensorboard", "wandb"}
    assert len(boards(("tensorboard", "wandb"), print)) == 2 and boards((), print) == []


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_back_what_it_was_told_and_a_resumed_run_strikes_out_what_it_makes_anew(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    sink = TensorBoard()
    sink.begin(plan(tmp_path, resumed_from=0))
    for record in RECORDS:
        sink.tell(record)
    sink.end(ENDED)
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = list(EventFileLoader(str(file)).Load())
    starts = [event.step for event in events if event.HasField("session_log")]
    told = {
        (event.step, value.tag): value.tensor.float_val[0]
        for event in events
        for value in event.summary.value
    }
    assert starts == [1]  # what was told of step 1 and later before the run was killed
    assert told[0, "test/accuracy"] == pytest.approx(0.1)
    assert told[1, "train/loss"] == 2.5 and told[1, "clients/accepted"] == 3.0


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_is_asked_in_its_own_terms_and_stays_offline(tmp_path, monkeypatch):
    import wandb

    asked = {}

    class Run:
        summary: dict = {}

        def log(self, values, step):
            asked.setdefault("log", []).append((step, values))

        def finish(self):
            asked["finished"] = True

    def init(**settings):
        asked.update(settings)
        return Run()

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "init", init)  # the real one starts a process and takes seconds
    sink = WeightsAndBiases()
    sink.begin(plan(tmp_path / "x-1"))
    sink.tell(RECORDS[1])
    sink.end(ENDED)
    assert (asked["mode"], asked["name"], asked["group"]) == ("offline", "x-1", "x")
    assert asked["log"] == [(1, scalars(RECORDS[1]))] and asked["finished"]
    assert Run.summary == {"status": "rounds", "model_sha256": "cafe"}

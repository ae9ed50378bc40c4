import builtins
import json

import pytest

from muster.core.errors import RunFolderError
from muster.core.record import Record
from muster.track.folder import RunFolder
from muster.track.folder_sink import FolderSink
from muster.track.sink import RunPlan
from worlds.summaries import summarise

RECORDS = [
    Record(v, 10.0 * v, 1.0 * v, 2.0 / (v + 1), {"accuracy": 0.1 * v, "loss": 2.0 / (v + 1)}, clients=(v,))
    for v in range(5)
]
SUMMARY = summarise(RECORDS, "rounds", "all 4 rounds are done", None, 1000, "ab", 0)


def plan(run, **more):
    return RunPlan("digits", "fedavg", "digits", "mlp", 10, 100, 400, rounds=4, out=run.path, **more)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run-1", "name: digits\n")


def test_a_run_leaves_its_files(run):
    pytest.importorskip("matplotlib")
    said = []
    sink = FolderSink(run, said.append)
    sink.begin(plan(run))
    for record in RECORDS:
        sink.tell(record)
    sink.say("client 3 sent NaN")
    sink.end(SUMMARY)
    assert {p.name for p in run.path.iterdir()} == {
        *("job.yml", "plan.json", "records.jsonl", "log.txt", "summary.json", "curve.png")
    }
    assert list(run.read()) == RECORDS
    assert json.loads((run.path / "summary.json").read_text()) == SUMMARY.to_json()
    assert (run.path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    log = (run.path / "log.txt").read_text()
    assert "client 3 sent NaN" in log and "done: all 4 rounds are done" in log and "round 0/4" in log
    assert said == []


def test_without_matplotlib_it_says_how_to_get_it(run, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **more)

    said = []
    sink = FolderSink(run, said.append)
    sink.begin(plan(run))
    sink.tell(RECORDS[0])
    monkeypatch.setattr(builtins, "__import__", without)
    sink.end(SUMMARY)
    monkeypatch.undo()
    assert len(said) == 1 and "pip install 'muster-fl[report]'" in said[0]
    assert "pip install" in (run.path / "log.txt").read_text()
    assert not (run.path / "curve.png").exists()
    assert run.read_summary() == SUMMARY


def test_a_resumed_run_forgets_the_summary_it_had(run):
    run.write_summary(SUMMARY)
    sink = FolderSink(run)
    sink.begin(plan(run))
    assert run.read_summary() == SUMMARY
    sink.begin(plan(run, resumed_from=2))
    assert run.read_summary() is None


def test_a_disk_that_fills_up_after_the_summary_does_not_undo_the_run(run, monkeypatch):
    said = []
    sink = FolderSink(run, said.append)
    sink.begin(plan(run))
    sink.tell(RECORDS[0])

    def full(line):
        raise RunFolderError(f"{run.path}: the disk is full (0 B free); make room, then go on")

    monkeypatch.setattr(run, "log", full)
    sink.end(SUMMARY)
    assert run.read_summary() == SUMMARY
    missing = "the run is whole, but curve.png or the end of log.txt is missing"
    assert said == [f"{missing}: {run.path}: the disk is full (0 B free)"]

"""The composition root: jobs put together, driven, stopped and resumed in this process."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import muster
from muster import checkpoint
from muster.core.errors import RunFolderError, UserError
from muster.core.record import Record
from muster.run import resume, run
from muster.track.folder import RunFolder
from muster.track.folder_sink import FolderSink

OWN = Path(__file__).parent / "e2e" / "own_parts.py"
ROUNDS = 12


def job(**changes: Any) -> muster.Job:
    body = {
        "model": "logistic",
        "engine": {"backend": "numpy", "workers": 1},
        "stop": {"rounds": ROUNDS},
        "track": {"checkpoint_every": 2, "evaluate_every": 5},
    }
    return muster.load_job({**body, **changes})


def stateful() -> muster.Job:
    return job(algorithm={"local": {"name": f"{OWN}:Slowing", "lr": 0.5}, "pace": {"cohort": 30}})


def unbroken(made: muster.Job) -> str:
    simulated = muster.simulate(made)
    for _ in simulated:
        pass
    assert simulated.summary is not None
    return str(simulated.summary.model_sha256)


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C while version `n` is being recorded; 0 lets runs go on again."""
    real = FolderSink.tell

    def arrange(version: int) -> None:
        def tell(self: FolderSink, record: Record) -> None:
            real(self, record)
            if record.version == version > 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(FolderSink, "tell", tell)

    return arrange


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def versions(folder: Path) -> list[int]:
    return [json.loads(line)["version"] for line in (folder / "records.jsonl").read_text().splitlines()]


def test_cohorts_in_torch_give_the_same_bits_for_any_number_of_workers() -> None:
    """Worker processes import torch, hence the seconds."""
    pytest.importorskip("torch")
    hashes = set()
    for workers in (1, 2):
        engine = {"backend": "torch", "mode": "cohort", "chunk": 4, "workers": workers}
        model = {"name": "leaf_cnn", "dense": 16}
        hashes.add(unbroken(job(model=model, engine=engine, stop={"rounds": 2})))
    assert len(hashes) == 1


def test_a_run_is_iterated_over_once_and_a_second_time_is_told() -> None:
    finished, left = muster.simulate(job()), muster.simulate(job())
    for _ in finished:
        pass
    next(iter(left))
    for simulated in (finished, left):
        with pytest.raises(UserError, match="iterated over already; make another with"):
            next(iter(simulated))


def test_simulate_yields_a_record_for_each_version_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated = muster.simulate(job())
    records = list(simulated)
    assert [record.version for record in records] == list(range(ROUNDS + 1))
    assert [record.version for record in records if record.metrics] == [0, 5, 10, ROUNDS]
    assert simulated.summary is not None and simulated.summary.status == "rounds"
    assert {name: array.shape for name, array in simulated.model.items()} == {
        "dense0.weight": (10, 64),
        "dense0.bias": (10,),
    }
    assert list(tmp_path.iterdir()) == []


def test_run_and_simulate_make_the_same_model(tmp_path: Path) -> None:
    summary = run(job(), tmp_path / "there")
    assert summary["model_sha256"] == unbroken(job())
    saved, simulated = load_file(tmp_path / "there" / "model.safetensors"), muster.simulate(job())
    list(simulated)
    for name, array in simulated.model.items():
        np.testing.assert_array_equal(saved[name], array)


def test_the_folder_has_a_number_if_it_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run(job(name="trial", stop={"rounds": 1}))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["trial-1", "trial-2"]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedyogi", "fedbuff"])
@pytest.mark.parametrize("version", [1, 7, ROUNDS])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    tmp_path: Path, interrupt_at: Any, algorithm: str, version: int
) -> None:
    there = tmp_path / "there"
    interrupt_at(version)
    stopped = run(job(algorithm=algorithm), there)
    assert stopped["status"] == "interrupted" and (there / "model.safetensors").exists()
    interrupt_at(0)
    summary = resume(there)
    assert summary["status"] == "rounds"
    assert summary["model_sha256"] == unbroken(job(algorithm=algorithm))
    assert versions(there) == list(range(ROUNDS + 1))


def test_clients_remember_over_an_interrupt(tmp_path: Path, interrupt_at: Any, capsys: Any) -> None:
    there = tmp_path / "there"
    interrupt_at(9)
    run(stateful(), there)
    assert (there / "clients").is_dir() and not (tmp_path / "clients").exists()
    interrupt_at(0)
    summary = resume(there)
    out = capsys.readouterr().out
    assert "resumed: goes on after round 8" in out and "starting over" not in out
    assert summary["model_sha256"] == unbroken(stateful())


def test_a_run_without_memory_makes_no_folder_for_it(tmp_path: Path) -> None:
    run(job(stop={"rounds": 1}), tmp_path / "there")
    assert not (tmp_path / "there" / "clients").exists()


def flip_tensors(newest: Path) -> None:
    path = newest / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def flip_control(newest: Path) -> None:
    path = newest / "control.json"
    path.write_text(path.read_text().replace('\\"version\\": 8', '\\"version\\": 7', 1))


def truncate(newest: Path) -> None:
    path = newest / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def lose(newest: Path) -> None:
    (newest / "control.json").unlink()


@pytest.mark.parametrize("damage", [flip_tensors, flip_control, truncate, lose])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, interrupt_at: Any, capsys: Any, damage: Callable[[Path], None]
) -> None:
    there = tmp_path / "there"
    interrupt_at(9)
    run(stateful(), there)
    assert checkpoints(there) == ["00000004", "00000006", "00000008"]
    before = (there / "checkpoints" / "00000008" / "control.json").read_bytes()
    damage(there / "checkpoints" / "00000008")
    if damage is flip_control:
        assert (there / "checkpoints" / "00000008" / "control.json").read_bytes() != before
    interrupt_at(0)
    capsys.readouterr()
    summary = resume(there)
    out = capsys.readouterr().out
    assert "checkpoint 8 is damaged (" in out and "going back to the one before" in out
    assert "resumed: goes on after round 6" in out
    assert summary["model_sha256"] == unbroken(stateful())
    assert versions(there) == list(range(ROUNDS + 1))


def test_all_damaged_starts_over_and_keeps_what_it_makes_anew(
    tmp_path: Path, interrupt_at: Any, capsys: Any
) -> None:
    there = tmp_path / "there"
    interrupt_at(11)
    run(stateful(), there)
    for name in checkpoints(there):
        flip_tensors(there / "checkpoints" / name)
    interrupt_at(5)
    capsys.readouterr()
    assert resume(there)["status"] == "interrupted"
    out = capsys.readouterr().out
    assert out.count("is damaged") == 3
    assert "has no checkpoint that can be used; starting over from its job.yml" in out
    assert [name for name in checkpoints(there) if name.isdigit()] == ["00000002", "00000004"]
    interrupt_at(0)
    summary = resume(there)
    assert "resumed: goes on after round 4" in capsys.readouterr().out
    assert summary["model_sha256"] == unbroken(stateful())
    assert versions(there) == list(range(ROUNDS + 1))


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tmp_path: Path, interrupt_at: Any, capsys: Any
) -> None:
    there = tmp_path / "there"
    interrupt_at(1)
    run(job(), there)
    interrupt_at(0)
    summary = resume(there)
    assert "has no checkpoint yet; starting over from its job.yml" in capsys.readouterr().out
    assert summary["model_sha256"] == unbroken(job())


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, real = tmp_path / "there", checkpoint._write

    def full(path: Path, pieces: Any) -> str:
        if "00000008" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(RunFolderError, match="the disk is full") as told:
            run(job(), there)
    assert f"`muster resume {there}`" in str(told.value)
    assert checkpoints(there) == ["00000002", "00000004", "00000006"]
    assert resume(there)["model_sha256"] == unbroken(job())
    assert versions(there) == list(range(ROUNDS + 1))


def test_a_finished_run_is_not_resumed(tmp_path: Path, capsys: Any) -> None:
    there = tmp_path / "there"
    summary = run(job(), there)
    assert resume(there) == summary
    assert f"{there} is finished (rounds); nothing to resume" in capsys.readouterr().out


def test_a_deployed_run_is_not_resumed_as_a_simulation(tmp_path: Path, interrupt_at: Any) -> None:
    """It would begin anew, over the records of the real clients."""
    there = tmp_path / "there"
    interrupt_at(7)
    run(job(), there)
    interrupt_at(0)
    folder = RunFolder.open(there)
    plan = folder.read_plan()
    assert plan is not None
    folder.write_plan(replace(plan, deployed="muster serve a.yml"))
    before = versions(there)
    with pytest.raises(UserError, match=r"deployed run; `muster serve a\.yml` goes on with it"):
        resume(there)
    assert versions(there) == before


def test_a_clock_only_run_is_resumed_as_one(tmp_path: Path, interrupt_at: Any) -> None:
    there = tmp_path / "there"
    interrupt_at(7)
    run(job(algorithm="fedbuff"), there, clock_only=True)
    interrupt_at(0)
    summary = resume(there)
    whole = list(muster.simulate(job(algorithm="fedbuff"), clock_only=True))
    assert summary["model_sha256"] is None
    assert summary["virtual_secs"] == whole[-1].now_secs
    assert summary["up_bytes"] == sum(record.up_bytes for record in whole)


@pytest.mark.parametrize("version", [1, 7])
def test_a_shared_link_is_put_back_as_it_was(tmp_path: Path, interrupt_at: Any, version: int) -> None:
    """Flows are half-way when the run is interrupted: their rest depends on who shared the link before."""
    made = job(algorithm="fedbuff", clock={"server_down_kbps": 2_000.0, "server_up_kbps": 900.0})
    own = list(muster.simulate(job(algorithm="fedbuff"), clock_only=True))[-1].now_secs
    whole = list(muster.simulate(made, clock_only=True))
    there = tmp_path / "there"
    interrupt_at(version)
    run(made, there, clock_only=True)
    interrupt_at(0)
    summary = resume(there)
    assert summary["virtual_secs"] == whole[-1].now_secs > own
    assert summary["up_bytes"] == sum(record.up_bytes for record in whole)


def test_the_clock_alone_refuses_a_target(tmp_path: Path) -> None:
    made = job(stop={"rounds": 3, "target": {"value": 0.9}})
    with pytest.raises(UserError, match=r"stop\.target waits for accuracy, but a clock-only run"):
        run(made, tmp_path / "there", clock_only=True)
    assert not (tmp_path / "there").exists()


def test_a_bug_leaves_a_traceback_and_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, real = tmp_path / "there", FolderSink.tell

    def tell(self: FolderSink, record: Record) -> None:
        real(self, record)
        if record.version == 6:
            raise ZeroDivisionError("ours")

    with monkeypatch.context() as patch:
        patch.setattr(FolderSink, "tell", tell)
        with pytest.raises(ZeroDivisionError):
            run(job(track={"checkpoint_every": 100}), there)
    assert "ZeroDivisionError: ours" in (there / "traceback.txt").read_text()
    assert checkpoints(there) == ["00000005"]
    assert resume(there)["model_sha256"] == unbroken(job())


def test_the_model_of_another_job_is_not_taken(tmp_path: Path, interrupt_at: Any) -> None:
    there = tmp_path / "there"
    interrupt_at(7)
    run(job(), there)
    interrupt_at(0)
    text = (there / "job.yml").read_text()
    (there / "job.yml").write_text(text.replace("logistic", "mlp"))
    with pytest.raises(RunFolderError, match="the checkpoint is of another model"):
        resume(there)
    assert checkpoints(there) == ["00000002", "00000004", "00000006"]


@pytest.mark.parametrize(("sample", "stated"), [(50, 50), (0, None), (10**6, None)])
def test_a_record_says_how_many_test_examples_were_drawn(sample: int, stated: int | None) -> None:
    job = {
        "model": "logistic",
        "engine": {"backend": "numpy"},
        "stop": {"rounds": 2},
        "track": {"evaluate_sample": sample, "evaluate_every": 2},
    }
    first, second, third = muster.simulate(job)
    assert (first.num_tested, second.num_tested, third.num_tested) == (stated, None, stated)
    assert set(third.metrics) == {"accuracy", "loss"} and not second.metrics

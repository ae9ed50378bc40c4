"""Whatever stops a run, `muster resume` ends in the bits of a run that nothing stopped."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

OWN = Path(__file__).with_name("own_parts.py")

ROUNDS = 80
"""Seconds of training, with a checkpoint every other round, beside the start of the process."""

KILLS = [(algorithm, n) for algorithm in ("fedavg", "fedyogi", "fedbuff") for n in range(7)][:20]


def _job(algorithm: str) -> list[str]:
    return ["digits.yml", f"algorithm={algorithm}", f"stop.rounds={ROUNDS}", "track.evaluate_every=5"]


def _check_ended(shell: Any, records: Any, summary: dict[str, Any], sha256: str) -> None:
    assert (summary["status"], summary["rounds"]) == ("rounds", ROUNDS)
    assert summary["model_sha256"] == sha256
    told = records(shell.folder / "there")
    assert [record["version"] for record in told] == list(range(ROUNDS + 1))
    for kind, count in summary["num_tasks"].items():
        assert count == sum(record[f"num_{kind}"] for record in told)


@pytest.mark.parametrize(("algorithm", "number"), KILLS)
def test_kill_9_at_a_random_moment(
    shell: Any, records: Any, wait_for_records: Any, hash_of: Any, algorithm: str, number: int
) -> None:
    """The moment is counted in records, so that a slow machine is killed as deep in the run as a fast one."""
    moment = random.Random(f"{algorithm} {number}")
    count, there = moment.randint(1, int(0.8 * ROUNDS)), shell.folder / "there"
    for _ in range(3):  # a busy machine may let us sleep until the run is over
        with shell.start("run", *_job(algorithm), "--out", "there") as process:
            alive = wait_for_records(process, there, count, moment.random())
            process.kill()
        if alive and process.returncode == -signal.SIGKILL:
            break
        shutil.rmtree(there)
        count = 1 + count // 2
    assert process.returncode == -signal.SIGKILL
    assert not (there / "summary.json").exists()
    summary = shell.json("resume", "there")
    _check_ended(shell, records, summary, hash_of(shell.folder / "digits.yml", *_job(algorithm)[1:]))


def test_killed_again_and_again(shell: Any, records: Any, wait_for_records: Any, hash_of: Any) -> None:
    command = ["run", *_job("fedbuff"), "--out", "there"]
    for count in (15, 30, 50):
        with shell.start(*command) as process:
            assert wait_for_records(process, shell.folder / "there", count, 0.5)
            process.kill()
        command = ["resume", "there"]
    summary = shell.json("resume", "there")
    _check_ended(shell, records, summary, hash_of(shell.folder / "digits.yml", *_job("fedbuff")[1:]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_stops_a_run_cleanly(
    shell: Any, records: Any, wait_for_records: Any, hash_of: Any, number: signal.Signals
) -> None:
    there, local = shell.folder / "there", f"algorithm.local={{name: {OWN}:Slowing, lr: 0.5}}"
    (dawdle := shell.folder / "dawdle").touch()
    with shell.start("run", *_job("fedavg"), local, "track.checkpoint_every=1000", "--out", "there") as run:
        assert wait_for_records(run, there, 10)
        run.send_signal(number)
        out, err = run.communicate(timeout=100)
    dawdle.unlink()
    assert run.returncode == 130 and "Traceback" not in out + err
    told = records(there)
    stopped = shell.json("resume", str(shell.folder / "nowhere"), code=2)
    assert "does not exist" in stopped["error"]
    (checkpoint,) = (there / "checkpoints").iterdir()
    assert 9 <= int(checkpoint.name) <= told[-1]["version"] < ROUNDS
    assert '"status": "interrupted"' in (there / "summary.json").read_text()
    assert (there / "model.safetensors").exists() and (there / "curve.png").exists()
    assert "muster resume there" in out

    unbroken = hash_of(shell.folder / "digits.yml", *_job("fedavg")[1:], local)
    _check_ended(shell, records, shell.json("resume", "there"), unbroken)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    out, _ = shell("resume", "there")
    assert "there is finished (rounds); nothing to resume" in out
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before


@pytest.fixture
def small_disk(shell: Any) -> Iterator[Path]:
    disk = shell.folder / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    if made.returncode:
        pytest.skip("a disk of 2 MB cannot be mounted here (it needs root)")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    shell: Any, records: Any, wait_for_records: Any, hash_of: Any, small_disk: Path
) -> None:
    with shell.start("run", *_job("fedavg"), "--out", "disk/there") as run:
        assert wait_for_records(run, small_disk / "there", 30)
        with (small_disk / "ballast").open("wb", 0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(1024))
        _, err = run.communicate(timeout=100)
    assert run.returncode == 2
    last = err.splitlines()[-1]
    assert "the disk is full" in last and "muster resume disk/there" in last and "Traceback" not in err
    (small_disk / "ballast").unlink()
    (shell.folder / "there").symlink_to(small_disk / "there")
    summary = shell.json("resume", "disk/there")
    _check_ended(shell, records, summary, hash_of(shell.folder / "digits.yml", *_job("fedavg")[1:]))

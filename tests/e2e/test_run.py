"""`muster run` and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

OWN = Path(__file__).with_name("own_parts.py")

SUMMARY_KEYS = {
    *("status", "rounds", "virtual_secs", "wall_secs", "metrics", "best", "time_to_target_secs", "num_tasks"),
    *("up_bytes", "down_bytes", "device_secs", "peak_rss_bytes", "model_sha256", "seed"),
}


def test_a_run_leaves_these_files_and_no_others(shell: Any, records: Any) -> None:
    out, err = shell("run", "digits.yml", "--out", "there")
    there = shell.folder / "there"
    files = "job.yml plan.json records.jsonl summary.json model.safetensors log.txt curve.png checkpoints"
    assert {path.name for path in there.iterdir()} == set(files.split())
    assert {path.name for path in shell.folder.iterdir()} == {"digits.yml", "there"}

    summary = json.loads((there / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert (summary["status"], summary["rounds"], summary["seed"]) == ("rounds", 20, 0)
    assert summary["num_tasks"].keys() >= {"accepted", "late", "lost", "discarded"}
    assert summary["device_secs"].keys() == {"used", "wasted"}
    told = records(there)
    assert [record["version"] for record in told] == list(range(21))
    assert summary["num_tasks"]["accepted"] == sum(record["num_accepted"] for record in told)
    assert summary["metrics"] == told[-1]["metrics"] and summary["metrics"]["accuracy"] > 0.5
    assert summary["virtual_secs"] == told[-1]["now_secs"] > 0
    assert summary["best"]["accuracy"]["value"] == max(record["metrics"]["accuracy"] for record in told)
    model = load_file(there / "model.safetensors")
    assert sorted(array.size for array in model.values()) == [10, 640]

    assert "Traceback" not in err
    report, again, other = [line.strip() for line in out.splitlines()[-3:]]
    assert report == "muster report there"
    assert again.startswith("muster run ") and "algorithm=fedyogi" in again
    assert other.startswith("muster run ") and "seed=1" in other
    assert (there / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "done: 20 rounds are done" in (there / "log.txt").read_text()


def test_the_commands_that_are_suggested_work(shell: Any) -> None:
    out, _ = shell("run", "digits.yml", "stop.rounds=2", "--out", "there")
    for line in out.splitlines()[-3:]:
        name, *args = line.split()
        assert name == "muster"
        shell(*args)
    page = (shell.folder / "there" / "report.html").read_text("utf-8")
    assert "<html" in page and "http-equiv" not in page and 'src="http' not in page
    assert len(list((shell.folder / "runs").iterdir())) == 2


def test_json_is_one_object_on_stdout(shell: Any) -> None:
    out, err = shell("run", "digits.yml", "stop.rounds=2", "--out", "there", "--json")
    assert out.count("\n") == 1
    assert json.loads(out) == json.loads((shell.folder / "there" / "summary.json").read_text())
    assert "round 2/2" in err


def test_the_seed_decides_the_model(shell: Any, hash_of: Any) -> None:
    """In one process and in another, with one thread and with more: the same seed, the same bits."""
    first, again, other = (
        shell.json("run", "digits.yml", f"seed={seed}", "stop.rounds=4")["model_sha256"] for seed in (3, 3, 4)
    )
    assert first == again == hash_of(shell.folder / "digits.yml", "seed=3", "stop.rounds=4")
    assert other != first


def test_changes_on_the_command_line_reach_the_job(shell: Any, records: Any) -> None:
    changes = ["algorithm=fedbuff", "algorithm.pace.size=3", "stop.rounds=2", "name=mine"]
    shell("run", "digits.yml", *changes)
    (there,) = (shell.folder / "runs").iterdir()
    assert there.name == "mine-1"
    assert [record["num_accepted"] for record in records(there)] == [0, 3, 3]
    job = shell.json("check", str(there / "job.yml"))["job"]
    assert job["algorithm"]["name"] == "fedbuff" and job["algorithm"]["pace"]["size"] == 3


def test_a_wrong_job_leaves_nothing(shell: Any) -> None:
    out, err = shell("run", "digits.yml", "algorithm.pace.cohort=1000", "--out", "there", code=2)
    assert out == "" and err.count("\n") == 1 and "algorithm.pace.cohort" in err
    assert not (shell.folder / "there").exists()


def test_what_exists_is_not_written_over(shell: Any) -> None:
    (shell.folder / "there").mkdir()
    (shell.folder / "there" / "thesis.tex").write_text("years of work")
    _, err = shell("run", "digits.yml", "--out", "there", code=2)
    assert err.count("\n") == 1 and "is not empty (thesis.tex)" in err
    assert [path.name for path in (shell.folder / "there").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        (["stop.virtual_secs=0.3"], "virtual_secs"),
        (["stop.rounds=null", "stop.wall_secs=0.5"], "wall_secs"),
        (["stop.rounds=500", "stop.target={metric: accuracy, value: 0.5}"], "target"),
        (["stop.target={metric: loss, value: 0.001}"], "rounds"),
    ],
)
def test_when_a_run_ends(shell: Any, records: Any, changes: list[str], status: str) -> None:
    summary = shell.json("run", "digits.yml", *changes, "--out", "there")
    assert summary["status"] == status
    complete = [record for record in records(shell.folder / "there") if record["complete"]]
    accuracies = [record["metrics"]["accuracy"] for record in complete]
    match status:
        case "virtual_secs":
            assert complete[-1]["now_secs"] <= 0.3 == summary["virtual_secs"]
        case "wall_secs":
            assert summary["wall_secs"] >= 0.5
        case "target":
            assert accuracies[-1] >= 0.5 > max(accuracies[:-1])
            assert summary["time_to_target_secs"] == complete[-1]["now_secs"]
        case _:
            assert summary["rounds"] == 20 and summary["time_to_target_secs"] is None


@pytest.mark.parametrize("algorithm", ["fedavg", "fedyogi", "fedbuff"])
def test_the_clock_alone_tells_the_same_time(shell: Any, records: Any, algorithm: str) -> None:
    shell("run", "digits.yml", f"algorithm={algorithm}", "--out", "trained")
    out, _ = shell("run", "digits.yml", f"algorithm={algorithm}", "--clock-only", "--out", "timed")
    assert "clock only" in out and not (shell.folder / "timed" / "model.safetensors").exists()
    costs = ("version", "now_secs", "num_sent", "num_accepted", "num_lost", "clients", "up_bytes")
    trained, timed = (
        [[record[key] for key in costs] for record in records(shell.folder / name)]
        for name in ("trained", "timed")
    )
    assert trained == timed and len(timed) == 21
    assert not any(record["surrogate"] for record in records(shell.folder / "timed"))


def test_the_clock_alone_cannot_reach_a_target(shell: Any) -> None:
    target = "stop.target={metric: accuracy, value: 0.9}"
    _, err = shell("run", "digits.yml", target, "--clock-only", "--out", "there", code=2)
    assert err.count("\n") == 1 and "stop.target waits for accuracy" in err and "--clock-only" in err
    assert not (shell.folder / "there").exists()
    shell("run", "digits.yml", target, "stop.target=null", "--clock-only", "--out", "there")


def test_the_clock_alone_says_that_losses_are_made_up(shell: Any, records: Any) -> None:
    args = [f"algorithm.select={OWN}:Hardest", "stop.rounds=15"]
    out, _ = shell("run", "digits.yml", *args, "--clock-only", "--out", "timed")
    assert "surrogate: selection reads losses drawn from a curve, not from training" in out
    timed = records(shell.folder / "timed")
    assert all(record["surrogate"] for record in timed) and timed[1]["loss"] > timed[9]["loss"] > 0
    ten_rounds = [client for record in timed[:11] for client in record["clients"]]
    assert len(set(ten_rounds)) == len(ten_rounds)  # whoever has not been seen comes first
    assert '"surrogate": true' in (shell.folder / "timed" / "plan.json").read_text()

    out, _ = shell("run", "digits.yml", *args, "--out", "trained")
    assert "surrogate" not in out
    assert not any(record["surrogate"] for record in records(shell.folder / "trained"))


def test_a_users_client_that_raises_is_told_and_can_be_mended(shell: Any, hash_of: Any) -> None:
    job = ["digits.yml", f"algorithm.local={{name: {OWN}:Breaking, lr: 0.1}}"]
    (shell.folder / "broken").touch()
    _, err = shell("run", *job, "--out", "there", code=1)
    text = (shell.folder / "there" / "traceback.txt").read_text()
    for told in (err, text):
        assert "ZeroDivisionError: the user's own mistake" in told and "own_parts.py" in told
    assert "there/traceback.txt" in err.splitlines()[-1]
    (shell.folder / "broken").unlink()
    unbroken = hash_of(shell.folder / job[0], *job[1:])
    assert shell.json("resume", "there")["model_sha256"] == unbroken


def test_check_and_schema(shell: Any) -> None:
    out, _ = shell("check", "digits.yml", "seed=5")
    (shell.folder / "resolved.yml").write_text(out)
    assert shell.json("check", "resolved.yml")["job"]["seed"] == 5
    assert "algorithm" in shell.json("schema")["properties"]


def test_report_of_what_is_no_run(shell: Any) -> None:
    _, err = shell("report", "nowhere", code=2)
    assert err.startswith("muster: nowhere") and err.count("\n") == 1


def test_a_reader_that_has_seen_enough_does_not_end_the_run(shell: Any) -> None:
    process: subprocess.Popen[str] = shell.start("run", "digits.yml", "--out", "there")
    with process:
        assert process.stdout is not None and process.stdout.readline()
        process.stdout.close()
        assert process.wait(100) == 0
    assert (shell.folder / "there" / "summary.json").exists()

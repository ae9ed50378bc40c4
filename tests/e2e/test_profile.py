"""`muster run --profile`: what the wall time went into."""

from __future__ import annotations

import json
from typing import Any

import pytest

PHASES = {"start", "select", "world", "measure", "train", "wait", "fold", "apply", "evaluate", "write"}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_profile_says_what_the_time_went_into(shell: Any, num_workers: int) -> None:
    settings = [f"engine.workers={num_workers}", "engine.mode=sequential", "stop.rounds=3"]
    out, _ = shell("run", "digits.yml", *settings, "--profile", "--out", "there")
    profile = json.loads((shell.folder / "there" / "profile.json").read_text())
    summary = json.loads((shell.folder / "there" / "summary.json").read_text())
    secs = profile["secs"]
    assert set(secs) <= PHASES and {"select", "world", "fold", "apply", "evaluate", "write"} <= set(secs)
    assert sum(secs.values()) == pytest.approx(profile["wall_secs"], rel=1e-6)
    assert min(secs.values()) >= 0 and secs["train" if num_workers == 1 else "wait"] > 0
    # where there is so little to do, one worker may do all of it
    assert len(profile["workers"]) in ([0] if num_workers == 1 else [1, 2])
    for worker in profile["workers"]:
        assert set(worker) <= {"train", "fold", "evaluate"}
    assert profile["num_tasks"] == summary["num_tasks"]["accepted"] == profile["num_calls"]
    # logistic regression of 64 inputs and 10 classes: 640 multiply-adds; one epoch of what each client holds
    assert profile["num_samples"] > profile["num_tasks"]
    assert profile["flops"] == 6 * 640 * profile["num_samples"]
    assert 0 < profile["of_peak"] < 1 and profile["peak_flops_per_sec"] > 1e9
    assert profile["device"] == "cpu, one thread" and profile["num_devices"] == max(
        len(profile["workers"]), 1
    )
    assert f"(matrix products, cpu, one thread x {profile['num_devices']})" in out
    names = ["parent"] if num_workers == 1 else ["parent", "worker 0", "worker 1"]
    peaks = profile["peak_rss_bytes"]  # one worker may do all of a small run
    assert (
        list(peaks) == names and peaks["parent"] > 10**7 and max(list(peaks.values())[-num_workers:]) > 10**7
    )
    assert sum(profile["peak_rss_bytes"].values()) == summary["peak_rss_bytes"]
    assert f"{profile['num_samples']:,} samples" in out and "% of " in out


def test_a_profile_changes_nothing_else(shell: Any) -> None:
    for name, flags in (("with", ["--profile"]), ("without", [])):
        shell("run", "digits.yml", "stop.rounds=2", *flags, "--out", name)
    told = [json.loads((shell.folder / n / "summary.json").read_text()) for n in ("with", "without")]
    assert told[0]["model_sha256"] == told[1]["model_sha256"]
    assert not (shell.folder / "without" / "profile.json").exists()

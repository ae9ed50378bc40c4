"""Evaluation beside training: the same numbers, told in the same order."""

from __future__ import annotations

import json
import signal
from typing import Any

BOTH = ("engine.workers=2", "engine.mode=sequential", "stop.rounds=6")


def told(records: Any, folder: Any) -> list[dict[str, Any]]:
    """Its records, wall times left out."""
    return [{k: v for k, v in record.items() if k != "wall_secs"} for record in records(folder)]


def test_evaluation_that_overlaps_tells_the_same(shell: Any, records: Any) -> None:
    """Every second version: records without metrics wait for those before them."""
    for name, overlap in (("beside", "true"), ("between", "false")):
        settings = (f"track.evaluate_overlap={overlap}", "track.evaluate_every=2")
        shell("run", "digits.yml", *BOTH, *settings, "track.checkpoint_every=4", "--out", name)
    beside, between = shell.folder / "beside", shell.folder / "between"
    assert told(records, beside) == told(records, between)
    assert [len(record["metrics"]) for record in records(beside)] == [
        2,
        *(2 if v % 2 == 0 else 0 for v in range(1, 7)),
    ]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (beside, between)]
    for key in ("model_sha256", "metrics", "best", "rounds"):
        assert summaries[0][key] == summaries[1][key]


def test_a_run_that_is_stopped_while_it_evaluates_ends_in_the_same_bits(
    shell: Any, records: Any, wait_for_records: Any
) -> None:
    settings = ("engine.workers=2", "engine.mode=sequential", "stop.rounds=12", "track.evaluate_overlap=true")
    shell("run", "digits.yml", *settings, "--out", "whole")
    with shell.start("run", "digits.yml", *settings, "--out", "stopped") as process:
        assert wait_for_records(process, shell.folder / "stopped", 4)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    shell("resume", "stopped")
    whole, stopped = shell.folder / "whole", shell.folder / "stopped"
    assert told(records, stopped) == told(records, whole)
    hashes = [
        json.loads((folder / "summary.json").read_text())["model_sha256"] for folder in (whole, stopped)
    ]
    assert hashes[0] == hashes[1]

"""A run as its folder shows it, while it is written, cut back and ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from muster.core.errors import RunFolderError
from muster.core.record import Record
from muster.net.watch import MAX_TEXT, Watch, write_live
from muster.track.folder import RECORDS, RunFolder
from muster.track.summary import Tally


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "name: demo\n")


def record(version: int, **more: object) -> Record:
    return Record(version, 10.0 * version, 1.0 * version, **more)  # type: ignore[arg-type]


def test_before_the_first_version_it_waits(run: RunFolder) -> None:
    seen = Watch(run.path).look()
    assert (seen.state, seen.tally.version, seen.name) == ("waiting", 0, "run")


def test_new_versions_are_seen_at_the_next_look(run: RunFolder) -> None:
    watch = Watch(run.path)
    run.append(record(0, metrics={"accuracy": 0.1}))
    run.append(record(1, loss=2.0, num_accepted=3, num_lost=1))
    assert watch.look().tally.version == 1
    run.append(record(2, loss=1.5, metrics={"accuracy": 0.5}, num_accepted=4, up_bytes=70))
    seen = watch.look()
    assert seen.state == "running" and seen.loss == 1.5
    assert seen.curves == {"accuracy": ((0, 0.1), (2, 0.5)), "": ((1, 2.0), (2, 1.5))}
    assert seen.tally.num_tasks["accepted"] == 7 and seen.tally.up_bytes == 70
    assert seen.clients == {"accepted": 4, "late": 0, "lost": 0, "discarded": 0, "refused": 0}
    assert not seen.live


def test_what_was_read_is_not_read_again(run: RunFolder) -> None:
    """The first line becomes rubbish after it was read: whoever begins anew fails, who goes on does not."""
    run.append(record(0))
    watch = Watch(run.path)
    watch.look()
    with (run.path / RECORDS).open("r+b") as file:
        file.write(b"#")
    run.append(record(1))
    assert watch.look().tally.version == 1
    with pytest.raises(RunFolderError, match="no record"):
        Watch(run.path).look()


def test_half_a_line_waits_for_the_other_half(run: RunFolder) -> None:
    run.append(record(0))
    watch = Watch(run.path)
    whole = json.dumps(record(1).to_json()).encode() + b"\n"
    with (run.path / RECORDS).open("ab") as file:
        file.write(whole[:20])
        file.flush()
        assert watch.look().tally.version == 0
        file.write(whole[20:])
    assert watch.look().tally.version == 1


def test_a_run_that_was_cut_back_is_read_anew(run: RunFolder) -> None:
    for version in range(4):
        run.append(record(version, num_accepted=1))
    watch = Watch(run.path)
    assert watch.look().tally.num_tasks["accepted"] == 4
    run.cut(1)
    assert watch.look().tally.num_tasks["accepted"] == 2


def test_a_server_says_what_its_clients_do(run: RunFolder) -> None:
    run.append(record(0))
    write_live(run.path, {"idle": 3, "training": 2, "made up": 9}, ["one", "x" * 1000])
    seen = Watch(run.path).look()
    assert seen.live and seen.clients == {"idle": 3, "training": 2, "lost": 0, "left": 0, "quarantined": 0}
    assert seen.errors[0] == "one" and len(seen.errors[1]) == MAX_TEXT


def test_a_damaged_live_file_is_no_error(run: RunFolder) -> None:
    (run.path / "live.json").write_text('{"clients": 3}')
    assert not Watch(run.path).look().live


def test_the_end_is_seen(run: RunFolder) -> None:
    run.append(record(1))
    write_live(run.path, {"idle": 1}, [])
    run.write_summary(Tally().summary("target", "accuracy 0.9 was reached", 0, None, 0))
    seen = Watch(run.path).look()
    assert (seen.state, seen.why, seen.live) == ("target", "accuracy 0.9 was reached", False)


def test_a_traceback_that_is_newer_than_the_records_is_a_failure(run: RunFolder) -> None:
    run.append(record(1))
    (run.path / "traceback.txt").write_text("Traceback ...")
    os.utime(run.path / RECORDS, (1000, 1000))
    watch = Watch(run.path)
    assert watch.look().state == "failed"
    os.utime(run.path / "traceback.txt", (900, 900))
    assert watch.look().state == "running"  # it was resumed


def test_numbers_that_json_cannot_hold_are_left_out_of_curves(run: RunFolder) -> None:
    run.append(record(1, metrics={"accuracy": float("nan")}))
    seen = Watch(run.path).look()
    assert "accuracy" not in seen.curves
    json.dumps(seen.to_json(), allow_nan=False)


def test_the_last_notices_are_shown(run: RunFolder) -> None:
    for number in range(20):
        run.log(f"notice {number}")
    errors = Watch(run.path).look().errors
    assert len(errors) == 10 and errors[-1].endswith("notice 19")


def test_a_run_may_begin_after_the_first_look(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "run")
    with pytest.raises(RunFolderError, match="does not exist"):
        watch.look()
    RunFolder.create(tmp_path / "run", "").append(record(1))
    assert watch.look().tally.version == 1

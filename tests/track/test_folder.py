import errno
import json
import math
import os
from pathlib import Path

import pytest

from muster.core.errors import RunFolderError
from muster.core.record import Record
from muster.track import folder as folder_module
from muster.track.folder import RunFolder, next_free, reserved, write_whole
from muster.track.sink import RunPlan
from worlds.summaries import summarise


def record(version, **more):
    return Record(version, 10.0 * version, 1.0 * version, clients=(version, 5), **more)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run-1", "name: digits\n")


def silent(line):
    raise AssertionError(f"said {line!r}")


class FullDisk:
    """A file on a disk with room for `room` more bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, content):
        if self._room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._file.write(content[: self._room])
        self._room -= written
        return written

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_records_come_back_as_they_were(run):
    records = [record(0, metrics={"accuracy": 0.1}), record(1, loss=2.0, num_accepted=3, up_bytes=12)]
    for each in records:
        run.append(each)
        assert list(RunFolder(run.path).read(silent))[-1] == each  # each is there at once
    assert list(run.read(silent)) == records
    assert run.job() == "name: digits\n"


def test_lines_are_strict_json_even_with_nan(run):
    run.append(record(1, loss=math.inf, metrics={"accuracy": math.nan}))
    line = (run.path / "records.jsonl").read_text()

    def refuse(token):
        raise AssertionError(token)

    assert json.loads(line, parse_constant=refuse)["loss"] is None
    (back,) = run.read(silent)
    assert math.isnan(back.metrics["accuracy"])
    assert back.loss is None


@pytest.mark.parametrize("kept", [1, 10, 50])
def test_a_torn_last_line_is_left_out_and_told(run, kept):
    run.append(record(1))
    run.append(record(2))
    path = run.path / "records.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    said = []
    assert [r.version for r in run.read(said.append)] == [1]
    assert len(said) == 1 and "line 2 is cut short" in said[0]
    run.append(record(3))
    assert [r.version for r in run.read(silent)] == [1, 3]


def test_a_torn_line_longer_than_one_block_is_dropped_before_appending(run):
    run.append(record(1))
    with (run.path / "records.jsonl").open("ab") as file:
        file.write(b"x" * 200_000)
    run.append(record(2))
    assert [r.version for r in run.read(silent)] == [1, 2]


@pytest.mark.parametrize("damage", [b"{oops}\n", b"[1]\n", b'{"version": 1}\n', b'\xff\xfe{"a": 1}\n'])
def test_a_damaged_line_in_the_middle_is_named(run, damage):
    run.append(record(1))
    path = run.path / "records.jsonl"
    path.write_bytes(path.read_bytes() + damage + path.read_bytes())
    with pytest.raises(RunFolderError, match=r"records\.jsonl, line 2: this is no record"):
        list(run.read(silent))


def test_no_records_is_a_sentence(run):
    with pytest.raises(RunFolderError, match=r"records\.jsonl is missing"):
        list(run.read())


def test_cut_drops_what_came_after(run):
    for version in range(6):
        run.append(record(version))
    before = (run.path / "records.jsonl").read_bytes().splitlines(keepends=True)
    run.cut(3, silent)
    assert (run.path / "records.jsonl").read_bytes() == b"".join(before[:4])
    run.append(record(4, loss=1.0))
    assert [r.version for r in run.read(silent)] == [0, 1, 2, 3, 4]
    run.cut(-1, silent)
    assert list(run.read(silent)) == []


def test_cut_without_records_does_nothing(run):
    run.cut(3)
    assert not (run.path / "records.jsonl").exists()


def test_cut_that_fails_leaves_the_old_file(run, monkeypatch):
    for version in range(3):
        run.append(record(version))
    before = (run.path / "records.jsonl").read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        run.cut(1, silent)
    monkeypatch.undo()
    assert (run.path / "records.jsonl").read_bytes() == before
    assert sorted(p.name for p in run.path.iterdir()) == ["job.yml", "records.jsonl"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(run, monkeypatch):
    run.append(record(1))
    opened = run._open_records
    monkeypatch.setattr(run, "_open_records", lambda: FullDisk(opened(), room=20))
    with pytest.raises(RunFolderError) as caught:
        run.append(record(2))
    assert str(run.path) in str(caught.value)
    assert "the disk is full (" in str(caught.value) and "B free)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [r.version for r in run.read(silent)] == [1]  # the half line is gone again
    monkeypatch.undo()
    run.append(record(2))
    assert [r.version for r in run.read(silent)] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_real_full_device(run):
    (run.path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="the disk is full"):
        run.log("a line")


def test_whole_files_are_replaced_or_left(run, monkeypatch):
    write_whole(run.path / "a.txt", b"old")

    def refuse(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RunFolderError, match="Input/output error"):
        write_whole(run.path / "a.txt", b"new")
    monkeypatch.undo()
    assert (run.path / "a.txt").read_bytes() == b"old"
    write_whole(run.path / "a.txt", b"new")
    assert (run.path / "a.txt").read_bytes() == b"new"
    assert sorted(p.name for p in run.path.iterdir()) == ["a.txt", "job.yml"]


def test_whole_files_are_synced_before_they_are_renamed(run, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), replace(self, to)))
    write_whole(run.path / "a.txt", b"new")
    assert done == ["sync", "rename", "sync"]  # the file, then its name, then the folder that holds the name


def test_create_refuses_what_it_would_overwrite(run, tmp_path):
    assert RunFolder.create(run.path, "name: again\n").job() == "name: again\n"  # nothing was run there
    run.append(record(0))
    with pytest.raises(RunFolderError, match="holds an unfinished run; go on with `muster resume"):
        RunFolder.create(run.path, "")
    run.write_summary(summarise([record(0)], "rounds", "", None, 0, None, 0))
    with pytest.raises(RunFolderError, match="holds a run already; choose another --out"):
        RunFolder.create(run.path, "")
    assert run.job() == "name: again\n"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("precious")
    with pytest.raises(RunFolderError, match=r"is not empty \(chapter1\.tex\) and no run"):
        RunFolder.create(other, "")
    with pytest.raises(RunFolderError, match="File exists"):
        RunFolder.create(other / "chapter1.tex", "")
    assert [p.name for p in other.iterdir()] == ["chapter1.tex"]


def test_next_free_counts_up(tmp_path):
    root = tmp_path / "runs"
    assert [next_free(root, "digits").name for _ in range(3)] == ["digits-1", "digits-2", "digits-3"]
    RunFolder.create(root / "digits-2", "")
    assert next_free(root, "shakespeare").name == "shakespeare-1"


def test_a_reserved_folder_goes_if_nothing_was_written_and_stays_otherwise(tmp_path):
    def fails(then):
        with reserved(tmp_path, "digits") as place:
            then(place)
            raise KeyError

    for then, left in ((lambda place: None, []), (lambda place: (place / "log.txt").touch(), ["digits-1"])):
        with pytest.raises(KeyError):
            fails(then)
        assert [each.name for each in tmp_path.iterdir()] == left
    with reserved(tmp_path, "digits") as place:
        pass
    assert place.name == "digits-2" and place.exists()


def test_open_wants_a_run(tmp_path, run):
    assert RunFolder.open(run.path).job() == "name: digits\n"
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")


def test_plan_and_summary_come_back(run):
    assert run.read_summary() is None and run.read_plan() is None
    plan = RunPlan("a", "b", "c", "d", 1, 2, 3, out=run.path)
    summary = summarise([record(1, metrics={"loss": 1.0})], "target", "why", None, 1, "ff", 2)
    run.write_plan(plan)
    run.write_summary(summary)
    assert run.read_plan() == plan
    assert run.read_summary() == summary
    run.forget_summary()
    assert run.read_summary() is None
    (run.path / "summary.json").write_text('{"status": 3}')
    with pytest.raises(RunFolderError, match=r"summary\.json is damaged"):
        run.read_summary()


def test_the_log_has_times(run):
    run.log("hello")
    run.log("again")
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == ["hello", "again"]
    assert lines[0][:2] == "20" and lines[0][10] == "T"


def test_free_bytes_are_told_even_if_the_folder_is_gone(tmp_path):
    assert folder_module._free_text(tmp_path / "no" / "where").endswith("B")

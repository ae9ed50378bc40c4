"""The run folder: what a run leaves behind, written so that a crash or a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, TypeVar

from muster.core.durable import make_folder, take_place
from muster.core.errors import RunFolderError
from muster.core.record import Record

from .sink import RunPlan
from .summary import Summary, finite
from .units import bytes_text

JOB, PLAN, RECORDS, SUMMARY = "job.yml", "plan.json", "records.jsonl", "summary.json"
LOG, CURVE, TRACEBACK = "log.txt", "curve.png", "traceback.txt"

Say = Callable[[str], None]
T = TypeVar("T")


def to_stderr(line: str) -> None:
    """Prints a notice for the user."""
    print(line, file=sys.stderr)


def next_free(root: Path, name: str) -> Path:
    """Makes and returns the first of `root/name-1`, `root/name-2`, ... that does not exist.

    Raises:
        RunFolderError: The folder cannot be made.
    """
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = root / f"{name}-{number}"
            try:
                path.mkdir()  # making it is what reserves it: two runs may look at once
                return path
            except FileExistsError:
                number += 1


@contextmanager
def reserved(root: Path, name: str) -> Iterator[Path]:
    """`next_free`, which is taken away again if the block fails before anything is in it.

    Raises:
        RunFolderError: The folder cannot be made.
    """
    path = next_free(root, name)
    try:
        yield path
    except BaseException:
        with suppress(OSError):  # it holds something by now
            path.rmdir()
        raise


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what the operating system says about `folder` into one sentence for the user.

    Raises:
        RunFolderError: The disk is full, or the folder cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunFolderError(
                f"{folder}: the disk is full ({_free_text(folder)} free); make room, then go on with "
                f"`muster resume {folder}`: what was written before is still there"
            ) from error
        raise RunFolderError(f"{folder}: {error.strerror or error} ({error.filename or folder})") from error


def _free_text(folder: Path) -> str:
    place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    try:
        return f"{bytes_text(shutil.disk_usage(place).free)}"
    except OSError:
        return "an unknown number of bytes"


def write_whole(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Writes a file aside, syncs it and renames it: readers see the old file or the new, never half.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written; the old file is untouched.
    """
    with disk_errors(path.parent), _aside(path) as file:
        for piece in (content,) if isinstance(content, bytes) else content:
            file.write(piece)


@contextmanager
def _aside(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        take_place(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


class RunFolder:
    """A run's folder: job.yml, plan.json, records.jsonl, summary.json, log.txt and curve.png.

    Checkpoints and the model live in the same folder; `muster.run` writes those.

    Raises:
        RunFolderError: From every method, when the disk is full or a file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path, job: str) -> RunFolder:
        """A new run folder that holds `job` as job.yml.

        Raises:
            RunFolderError: `path` is a file, or a folder that holds something; nothing is overwritten.
        """
        folder = cls(path)
        with disk_errors(folder.path):
            make_folder(folder.path)
            held = sorted(entry.name for entry in folder.path.iterdir())
        where = folder.path
        if SUMMARY in held:
            raise RunFolderError(f"{where} holds a run already; choose another --out, or remove the folder")
        if RECORDS in held:
            raise RunFolderError(
                f"{where} holds an unfinished run; go on with `muster resume {where}`, or choose another "
                "--out"
            )
        if set(held) - {JOB, PLAN, LOG}:
            raise RunFolderError(
                f"{where} is not empty ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}) and no run "
                "folder; choose another --out"
            )
        write_whole(folder.path / JOB, job.encode())
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder.

        Raises:
            RunFolderError: There is no run in `path`.
        """
        folder = cls(path)
        if not (folder.path / JOB).is_file() and not (folder.path / RECORDS).is_file():
            missing = "holds no run" if folder.path.is_dir() else "does not exist"
            raise RunFolderError(f"{path} {missing}; give a folder that `muster run` made (it has a {JOB})")
        return folder

    def job(self) -> str:
        """The text of job.yml."""
        with disk_errors(self.path):
            return (self.path / JOB).read_text("utf-8")

    def append(self, record: Record) -> None:
        """Adds a line to records.jsonl and hands it to the operating system."""
        line = json.dumps(finite(record.to_json()), allow_nan=False, separators=(",", ":")) + "\n"
        # Opened each time (some 20 microseconds): nothing is left open when a run fails.
        with disk_errors(self.path), self._open_records() as file:
            _append_line(file, line.encode())

    def _open_records(self) -> IO[bytes]:
        """records.jsonl for appending, without the torn line that a crash may have left at its end."""
        path = self.path / RECORDS
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        length, end = file.seek(0, os.SEEK_END), _whole_lines_end(file)
        if end < length:
            file.truncate(end)
        file.seek(end)
        return file

    def read(self, say: Say = to_stderr) -> Iterator[Record]:
        """The records, one after another. A torn last line is left out, and `say` is told.

        Raises:
            RunFolderError: There is no records.jsonl, or a line that is not the last is damaged.
        """
        for _, record in self._lines(say):
            yield record

    def _lines(self, say: Say) -> Iterator[tuple[bytes, Record]]:
        path = self.path / RECORDS
        if not path.is_file():
            raise RunFolderError(f"{path} is missing: no version was recorded; `muster run` makes it")
        with disk_errors(self.path), path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    say(f"{path}: line {number} is cut short (the run was killed there); it is left out")
                    return
                try:
                    record = _record(json.loads(line))
                except (ValueError, TypeError, AttributeError) as error:
                    raise RunFolderError(
                        f"{path}, line {number}: this is no record ({error}); remove the line, or take the "
                        "file from a copy"
                    ) from error
                yield line, record

    def cut(self, version: int, say: Say = to_stderr) -> None:
        """Drops all records after `version`, before a run goes on from there."""
        path = self.path / RECORDS
        if not path.exists():
            return
        with disk_errors(self.path), _aside(path) as file:
            for line, record in self._lines(say):
                if record.version <= version:
                    file.write(line)

    def write_plan(self, plan: RunPlan) -> None:
        """Writes plan.json."""
        write_whole(self.path / PLAN, _pretty(plan.to_json()))

    def read_plan(self) -> RunPlan | None:
        """What plan.json holds, None if there is none."""
        return self._read_json(PLAN, RunPlan.from_json)

    def write_summary(self, summary: Summary) -> None:
        """Writes summary.json."""
        write_whole(self.path / SUMMARY, _pretty(summary.to_json()))

    def read_summary(self) -> Summary | None:
        """What summary.json holds, None while the run has not ended."""
        return self._read_json(SUMMARY, Summary.from_json)

    def forget_summary(self) -> None:
        """Removes summary.json: the run goes on, so it says nothing true any more."""
        with disk_errors(self.path):
            (self.path / SUMMARY).unlink(missing_ok=True)

    def _read_json(self, name: str, make: Callable[[Any], T]) -> T | None:
        path = self.path / name
        try:
            with disk_errors(self.path):
                return make(json.loads(path.read_bytes())) if path.exists() else None
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(f"{path} is damaged ({error}); remove it and try again") from error

    def log(self, line: str) -> None:
        """Adds a line to log.txt, after the time of day."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with disk_errors(self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now}  {line}\n")


def _append_line(file: IO[bytes], line: bytes) -> None:
    start = file.tell()
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
    except BaseException:  # Ctrl-C too: half a line must not stay
        file.truncate(start)
        raise


def _record(data: Any) -> Record:
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    # Strict JSON has no NaN: a metric that was not a number was written as null.
    metrics = {k: math.nan if v is None else v for k, v in (data.get("metrics") or {}).items()}
    return Record.from_json({**data, "metrics": metrics})


def _whole_lines_end(file: IO[bytes]) -> int:
    """The offset behind the last newline: the length of the file without a torn last line."""
    end, block = file.seek(0, os.SEEK_END), 1  # the last byte is a newline, but after a crash
    while end > 0:
        start = max(end - block, 0)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end, block = start, 65536
    return 0


def _pretty(data: Any) -> bytes:
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()

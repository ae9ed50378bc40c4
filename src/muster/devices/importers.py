"""Traces of others, and tables of one's own, made into a folder that `imported` draws clients from.

fedscale   the pickles `client_device_capacity` and `client_behave_trace` (F. Lai et al., ICML 2022)
flash      the JSON of FLASH: AI-Benchmark's list of phones, benchmark scores, link speeds
           (C. Yang et al., WWW 2021)
mahimahi   link traces: a line is the millisecond at which one packet of 1,500 bytes can pass
           (R. Netravali et al., USENIX ATC 2015)
csv        columns of our own, see DEVICE_COLUMNS and AVAILABILITY_COLUMNS
parquet    the same columns; needs pyarrow
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError, UserError, nearest
from muster.core.tables import SECOND

from .availability import Intervals
from .plain_pickle import MAX_BYTES, read_plain_pickle
from .trace_folder import CONDITION, INTERVALS, TABLES, Arrays, conditions, write_traces

Floats = npt.NDArray[np.float64]

DEVICE_COLUMNS = ("ms_per_example", "down_kbps", "up_kbps", "memory_mb")
"""Of a CSV or Parquet file of devices, in any order, not all of them needed; a row is a device."""

AVAILABILITY_COLUMNS = ("trace", "start_secs", "end_secs", "period_secs")
"""Of a CSV or Parquet file of availability, all needed: a row is an interval in which a trace is online."""

ALIASES = {"computation_ms_per_sample": ("ms_per_example",), "communication_kbps": ("down_kbps", "up_kbps")}
"""Other names for them: those under which rows of FedScale's trace are published."""

MEDIAN_MS = 41.0
"""Milliseconds per example of a phone of median score: the median of FedScale's device trace, which was
made from the same benchmark. The others are as much faster as their score is higher."""

PACKET_BITS = 12_000
"""Of mahimahi: 1,500 bytes."""


def import_traces(files: Sequence[Path], out: Path, kind: str = "auto") -> dict[str, Any]:
    """Reads trace files and writes them as one folder; returns its facts.

    Args:
        files: Of one kind or of several; only mahimahi links may be many, each other table comes once.
        out: The folder to make.
        kind: Of all files; `auto` looks into each of them.

    Raises:
        DataError: A file cannot be read as that kind, or the folder cannot be written.
        UserError: There is no such kind, or two files bring the same table.

    """
    if kind not in ("auto", *READERS):
        raise UserError(f"--kind is {kind!r}, but must be one of auto, {', '.join(READERS)}")
    arrays: dict[str, npt.NDArray[Any]] = {}
    sources, links = [], []
    for file in files:
        data = _bytes(file)
        found = _kind(file, data) if kind == "auto" else kind
        sources.append({"file": file.name, "kind": found, "sha256": hashlib.sha256(data).hexdigest()})
        if found == "mahimahi":
            links.append((file.name, mahimahi(file.name, data)))
            continue
        for name, array in READERS[found](file.name, data).items():
            if name in arrays:
                raise UserError(f"{file} brings {name}, which another file has brought; import them apart")
            arrays[name] = array
    if links:
        if "down_kbps" in arrays:
            raise UserError("mahimahi links and another file both bring link speeds; import them apart")
        arrays |= _links(links)
    known = [name for names in TABLES.values() for name in names]
    known += [f"{condition}.{name}" for condition in conditions(arrays) for name in INTERVALS]
    return write_traces(out, {name: arrays[name] for name in known if name in arrays}, sources)


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file} has {file.stat().st_size:,} bytes, but at most {MAX_BYTES:,} are read")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def _kind(file: Path, data: bytes) -> str:
    """What a file is, by its first bytes, and by its name where they could be either."""
    start = data[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if data[:1] == b"\x80" or data[:2] in (b"(d", b"cc", b"}q", b"}("):
        return "fedscale"
    if data[:4] == b"PAR1":
        return "parquet"
    if start[:1] in (b"[", b"{"):
        return "flash"
    if re.match(rb"\d+\s*(\n|\Z)", start):
        return "mahimahi"
    if re.match(rb'"?[A-Za-z_]', start):
        return "csv"
    raise DataError(f"{file} is of no kind that is known; say which with --kind: {', '.join(READERS)}")


# ---- FedScale


def fedscale(name: str, data: bytes) -> Arrays:
    """The tables of `client_device_capacity` or of `client_behave_trace`, rows in order of client ids."""
    trace = read_plain_pickle(data, name)
    if not isinstance(trace, dict) or not trace or not all(isinstance(row, dict) for row in trace.values()):
        raise DataError(f"{name}: a FedScale trace must be a dict of dicts, one a client")
    listed = list(trace.items())
    if all(isinstance(key, int) for key in trace):
        listed.sort()
    first = listed[0][1]
    if {"computation", "communication"} <= set(first):
        speed = _column(name, "computation", ((key, row.get("computation")) for key, row in listed))
        link = _column(name, "communication", ((key, row.get("communication")) for key, row in listed))
        return _devices(name, {"ms_per_example": speed, "down_kbps": link, "up_kbps": link})
    if {"active", "inactive", "finish_time"} <= set(first):
        return _behaviour(name, listed)
    keys = ", ".join(map(str, first))
    raise DataError(
        f"{name}: its rows have {keys}; a FedScale trace has computation and communication, "
        "or active, inactive and finish_time"
    )


def _behaviour(name: str, listed: list[tuple[Any, dict[str, Any]]]) -> Arrays:
    """Client r is online from active[i] to inactive[i], seconds, again after finish_time."""
    traces: list[int] = []
    starts: list[Any] = []
    ends: list[Any] = []
    for number, (key, row) in enumerate(listed):
        come, go = row.get("active"), row.get("inactive")
        if not isinstance(come, (list, tuple)) or not isinstance(go, (list, tuple)) or len(come) != len(go):
            raise DataError(f"{name}: client {key} must have as many entries in active as in inactive")
        traces += [number] * len(come)
        starts += come
        ends += go
    period = _column(name, "finish_time", ((key, row.get("finish_time")) for key, row in listed))
    owner = [listed[trace][0] for trace in traces]
    return _intervals(
        name,
        np.array(traces, np.int64),
        _column(name, "active", zip(owner, starts, strict=True)),
        _column(name, "inactive", zip(owner, ends, strict=True)),
        period,
    )


def _column(name: str, field: str, values: Iterable[tuple[Any, Any]]) -> Floats:
    """Numbers with the row each is of, f64[N]."""
    found = []
    for row, value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(f"{name}: {field} of {row} is {value!r}, but must be a number")
        found.append(value)
    return np.array(found, np.float64)


# ---- FLASH


def flash(name: str, data: bytes) -> Arrays:
    """AI-Benchmark's list, `benchmark2score.json` or `speed_distri.json`, by their shape."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{name} is no JSON") from None
    if (
        isinstance(found, list)
        and found
        and all(isinstance(row, dict) and "AI_Score" in row for row in found)
    ):
        scores = [_number(name, row, "AI_Score") for row in found]
        memory = [1024 * _number(name, row, "RAM") for row in found]
        return _devices(name, {**_speeds(name, scores), "memory_mb": np.array(memory)})
    if isinstance(found, dict) and found:
        rows = list(found.values())
        if all(isinstance(row, (int, float)) and not isinstance(row, bool) for row in rows):
            return _devices(name, _speeds(name, [float(row) for row in rows]))
        fields = {
            "down_kbps": "down_u",
            "up_kbps": "up_u",
            "down_sigma": "down_sigma",
            "up_sigma": "up_sigma",
        }
        if all(isinstance(row, dict) and set(fields.values()) <= set(row) for row in rows):
            columns = {
                ours: _column(name, theirs, ((key, row[theirs]) for key, row in found.items()))
                for ours, theirs in fields.items()
            }
            return _devices(name, columns)
    raise DataError(
        f"{name} is none of FLASH's files that are read: a list of phones with AI_Score and RAM, a mapping "
        "of phones to scores, or a mapping of links to down_u, down_sigma, up_u and up_sigma"
    )


def _number(name: str, row: Mapping[str, Any], field: str) -> float:
    """The first number in a text like `8GB` or ` 76206 1,6`."""
    match = re.search(r"\d+(\.\d+)?", str(row.get(field, "")))
    if match is None:
        raise DataError(
            f"{name}: {field} of {row.get('Model')} is {row.get(field)!r}, but must hold a number"
        )
    return float(match[0])


def _speeds(name: str, scores: list[float]) -> dict[str, Floats]:
    if min(scores) <= 0:
        raise DataError(f"{name}: a score is {min(scores)}, but must be above 0")
    return {"ms_per_example": MEDIAN_MS * np.median(scores) / np.array(scores, np.float64)}


# ---- mahimahi


def _links(named: Sequence[tuple[str, Floats]]) -> Arrays:
    """Links of series: NAME.down and NAME.up are the ways of one; any other file is both ways of its own.

    Raises:
        UserError: A file of one way has no counterpart.

    """
    ways: dict[str, dict[str, int]] = {}
    for number, (name, _) in enumerate(named):
        stem, _, way = name.rpartition(".")
        if way in ("down", "up"):
            ways.setdefault(stem, {})[way] = number
        else:
            ways[name] = {"down": number, "up": number}
    alone = next((stem for stem, pair in ways.items() if len(pair) == 1), None)
    if alone is not None:
        raise UserError(f"{alone}.down and {alone}.up are the two ways of one link; give both")
    down, up = (np.array([pair[way] for pair in ways.values()], np.int64) for way in ("down", "up"))
    mean = np.array([series.mean() for _, series in named])
    return {
        "down_kbps": mean[down],
        "up_kbps": mean[up],
        "kbps": np.concatenate([series for _, series in named]),
        "kbps_offsets": np.cumsum([0, *(len(series) for _, series in named)], dtype=np.int64),
        "series_down": down,
        "series_up": up,
    }


def mahimahi(name: str, data: bytes) -> Floats:
    """Mean kbit/s in each second of a link trace, f64[S]; the trace repeats after its last whole second."""
    try:
        stamps = np.array(data.split(), dtype="S20").astype(np.int64)
    except (ValueError, OverflowError):
        raise DataError(
            f"{name} is no mahimahi trace: each line must be a whole number of milliseconds"
        ) from None
    if len(stamps) == 0 or stamps.min() < 0 or stamps.max() > 10**9 or (np.diff(stamps) < 0).any():
        raise DataError(f"{name} is no mahimahi trace: milliseconds must rise from 0, up to 10^9")
    packets = np.bincount(stamps // 1000)
    whole = packets if len(packets) == 1 else packets[: max(int(stamps[-1] + 1) // 1000, 1)]
    return np.asarray(whole * (PACKET_BITS / 1000.0), np.float64)


# ---- tables of our own columns


def csv_table(name: str, data: bytes) -> Arrays:
    """Devices or availability from a CSV file with a header."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = [cell.strip() for cell in next(reader, [])]
        body = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is no CSV file in UTF-8: {error}") from None
    short = next((i for i, row in enumerate(body, 2) if len(row) != len(header)), None)
    if short is not None:
        raise DataError(f"{name}: row {short} has another number of cells than the header ({len(header)})")
    return _table(name, {column: [row[i] for row in body] for i, column in enumerate(header)})


def parquet_table(name: str, data: bytes) -> Arrays:
    """Devices or availability from a Parquet file."""
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{name}: Parquet needs pyarrow (pip install 'muster-fl[parquet]'), or make it a CSV file"
        ) from None
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{name} is no Parquet file: {error}") from None
    return _table(name, {column: table[column].to_pylist() for column in table.column_names})


def _table(name: str, cells: Mapping[str, list[Any]]) -> Arrays:
    columns: dict[str, list[Any]] = {}
    for column, values in cells.items():
        for ours in ALIASES.get(column, (column,)):
            columns[ours] = values
    if not any(map(len, columns.values())):
        raise DataError(f"{name} has no rows")
    if "trace" in columns:
        missing = [column for column in AVAILABILITY_COLUMNS if column not in columns]
        if missing:
            raise DataError(
                f"{name} lacks {', '.join(missing)}; availability has {_and(AVAILABILITY_COLUMNS)}"
            )
        ids, trace = np.unique(np.array([str(v) for v in columns["trace"]]), return_inverse=True)
        start, end, period = (_cells(name, column, columns[column]) for column in AVAILABILITY_COLUMNS[1:])
        periods = np.zeros(len(ids))
        periods[trace] = period
        if (periods[trace] != period).any():
            wrong = ids[trace[int(np.argmax(periods[trace] != period))]]
            raise DataError(f"{name}: period_secs of trace {wrong} must be the same in all its rows")
        trace = np.asarray(trace, np.int64)
        if "condition" in columns:
            return _conditions(name, [str(cell) for cell in columns["condition"]], trace, start, end, periods)
        return _intervals(name, trace, start, end, periods)
    found = {column: _cells(name, column, columns[column]) for column in DEVICE_COLUMNS if column in columns}
    if not found.keys() & {"ms_per_example", "down_kbps", "up_kbps"}:
        hint = "".join(nearest(column, DEVICE_COLUMNS) for column in list(columns)[:1])
        raise DataError(
            f"{name} has {', '.join(columns)}{hint}; a file of devices has some of {_and(DEVICE_COLUMNS)}, "
            f"one of availability {_and(AVAILABILITY_COLUMNS)}"
        )
    for one, other in (("down_kbps", "up_kbps"), ("up_kbps", "down_kbps")):
        if one in found:
            found.setdefault(other, found[one])
    return _devices(name, found)


def _cells(name: str, column: str, values: list[Any]) -> Floats:
    found = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            found[i] = float(value)
        except (TypeError, ValueError):
            raise DataError(f"{name}: {column} in row {i + 2} is {value!r}, but must be a number") from None
    return found


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


# ---- what all have in common


def _devices(name: str, columns: Mapping[str, Floats]) -> Arrays:
    """Checks columns of devices: finite and above 0, but for sigmas, which may be 0."""
    for column, values in columns.items():
        least = 0.0 if column.endswith("_sigma") else np.nextafter(0, 1)
        wrong = ~(np.isfinite(values) & (values >= least))
        if wrong.any():
            at = int(np.argmax(wrong))
            bound = "at least 0" if column.endswith("_sigma") else "above 0"
            raise DataError(f"{name}: {column} of device {at} is {values[at]:g}, but must be {bound}")
    if "memory_mb" in columns and "ms_per_example" not in columns:
        raise DataError(f"{name} has memory_mb without ms_per_example, which it comes with")
    return dict(columns)


def _intervals(name: str, trace: npt.NDArray[np.int64], start: Floats, end: Floats, period: Floats) -> Arrays:
    """Checks intervals (seconds) and joins those of a trace that touch."""
    whole = np.isfinite(start) & np.isfinite(end) & (start >= 0) & (end >= start)
    if not whole.all():
        at = int(np.argmin(whole))
        raise DataError(
            f"{name}: trace {trace[at]} is online from {start[at]:g} to {end[at]:g} s, "
            "but must have 0 <= start <= end"
        )
    if not ((period > 0) & (period < 9e8)).all():
        at = int(np.argmin((period > 0) & (period < 9e8)))
        raise DataError(
            f"{name}: the period of trace {at} is {period[at]:g} s, but must be above 0, below 9e8"
        )
    inside = start < period[trace]
    if not inside.all():
        at = int(np.argmin(inside))
        raise DataError(
            f"{name}: trace {trace[at]} comes online at {start[at]:g} s, after its period of "
            f"{period[trace[at]]:g} s"
        )
    ends = np.minimum(end, period[trace])
    ns = (np.rint(seconds * SECOND).astype(np.int64) for seconds in (start, ends, period))
    starts_ns, ends_ns, period_ns = ns
    joined = Intervals.joined(trace, starts_ns, ends_ns, period_ns)
    return {
        "starts": joined.starts,
        "ends": joined.ends,
        "offsets": joined.offsets,
        "period": joined.period,
    }


def _conditions(
    name: str, named: list[str], trace: npt.NDArray[np.int64], start: Floats, end: Floats, period: Floats
) -> Arrays:
    """The intervals of each condition apart, over the same traces."""
    wrong = next((i for i, condition in enumerate(named) if not CONDITION.fullmatch(condition)), None)
    if wrong is not None:
        raise DataError(
            f"{name}: condition in row {wrong + 2} is {named[wrong]!r}, but must be a name like charging "
            "or wifi: small letters, digits and _"
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for condition in sorted(set(named)):
        own = np.array([other == condition for other in named])
        found = _intervals(name, trace[own], start[own], end[own], period)
        arrays |= {f"{condition}.{part}": found[part] for part in INTERVALS}
        arrays["period"] = found["period"]
    return arrays


READERS: Mapping[str, Callable[[str, bytes], Arrays]] = {
    "fedscale": fedscale,
    "flash": flash,
    "mahimahi": lambda name, data: {"kbps": mahimahi(name, data)},
    "csv": csv_table,
    "parquet": parquet_table,
}
"""What reads each kind: (name for messages, bytes) -> arrays of the tables."""

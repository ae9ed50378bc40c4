"""A folder of imported traces: one .npy file an array, and `facts.json` with a sha256 of each.

Up to four tables, which need not have the same number of rows:

    compute        ms_per_example f64[N]; memory_mb f64[N], if known
    link           down_kbps, up_kbps f64[N]; down_sigma, up_sigma f64[N], if a link's speed is a
                   normal distribution
    link_series    kbps f64[S], mean speed in each second, the series one after the other;
                   kbps_offsets i64[M+1]; series_down, series_up i64[N], the series of each link's ways
    availability   starts, ends i64[M] ns, offsets i64[N+1], period i64[N] ns; see `Intervals`; or, where
                   rows are of conditions, `charging.starts` and so on for each, and one period

Numbers keep all digits of their source. The folder is written aside and renamed when whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.arrays import digest_of, write_array
from muster.core.errors import DataError

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

FORMAT = 1

FIX = "make it with: muster devices import FILE --out DIR"

TABLES: Mapping[str, tuple[str, ...]] = {
    "compute": ("ms_per_example", "memory_mb"),
    "link": ("down_kbps", "up_kbps", "down_sigma", "up_sigma"),
    "link_series": ("kbps", "kbps_offsets", "series_down", "series_up"),
    "availability": ("starts", "ends", "offsets", "period"),
}
"""The arrays of each table."""

_COUNTED = {"compute": "ms_per_example", "link": "down_kbps", "availability": "period"}


CONDITION = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""What a condition may be called."""
INTERVALS = ("starts", "ends", "offsets")
"""The arrays of availability that each condition has of its own."""


def conditions(arrays: Iterable[str]) -> list[str]:
    """The conditions of a folder with these arrays, in order of their names."""
    named = (name.rpartition(".") for name in arrays)
    return sorted({condition for condition, _, array in named if condition and array == "starts"})


def num_rows(arrays: Arrays) -> dict[str, int]:
    """Rows of each table that there is; the series are of the links and not counted."""
    return {table: len(arrays[name]) for table, name in _COUNTED.items() if name in arrays}


def write_traces(out: Path, arrays: Arrays, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes the folder `out`, which may not exist yet; returns its facts.

    Args:
        out: The folder.
        arrays: Of the tables above.
        sources: What was read: file, kind and sha256 of each.

    Raises:
        DataError: `out` exists, or cannot be written; nothing half-written is left then.

    """
    if out.exists():
        raise DataError(f"{out} exists already; name a new folder with --out, or delete it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".muster-aside-", dir=out.parent))
        try:
            facts: dict[str, Any] = {
                "format": FORMAT,
                "sources": [dict(source) for source in sources],
                "rows": num_rows(arrays),
                "arrays": {name: write_array(aside / f"{name}.npy", array) for name, array in arrays.items()},
            }
            facts["sha256"] = digest_of(facts)
            (aside / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
            os.chmod(aside, 0o755)
            os.rename(aside, out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise DataError(f"the traces cannot be written to {out}: {error.strerror or error}") from error
    return facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a folder that `write_traces` wrote.

    Raises:
        DataError: There are none, or they are damaged or of another format.

    """
    try:
        facts = json.loads((path / "facts.json").read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} holds no imported traces (facts.json is missing); {FIX}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: facts.json cannot be read ({error}); {FIX}") from error
    if (
        not isinstance(facts, dict)
        or facts.get("format") != FORMAT
        or facts.get("sha256") != digest_of(facts)
    ):
        raise DataError(f"{path}: facts.json is damaged or of another format; {FIX}")
    return facts


def open_traces(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a folder that `write_traces` wrote, checked against their hashes.

    Raises:
        DataError: The folder is missing, of another format, or not as it was written.

    """
    arrays = {}
    for name, wanted in read_facts(path)["arrays"].items():
        try:
            data = (path / f"{name}.npy").read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {name}.npy cannot be read ({error.strerror}); {FIX}") from error
        if hashlib.sha256(data).hexdigest() != wanted:
            raise DataError(f"{path}: {name}.npy is not as it was written (its sha256 differs); {FIX}")
        arrays[name] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return arrays

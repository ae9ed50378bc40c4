"""The store: a data set is dealt out to its clients once, then memory-mapped from a folder.

The folder's name is a hash of all that it depends on: the data set's settings, the seed, the
fingerprint of the source files and the format. It is written aside and renamed when whole, so a
folder with that name is never half-written, whoever is killed and however many prepare it at once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.arrays import digest_of, write_array
from muster.core.errors import DataError, MusterError
from muster.core.examples import Examples, Facts
from muster.core.part import dumps
from muster.core.randomness import rng
from muster.data.dataset import DataSet, Raw, built_in
from muster.data.federated import FORMAT, FederatedData
from muster.data.partition import Assignment

log = logging.getLogger(__name__)

ASIDE = ".muster-aside-"
"""How the names of folders begin that are not yet, or no longer, prepared data."""

ABANDONED_SECS = 24 * 3600.0
"""A folder written aside and not touched for so long belongs to a process that was killed."""


def prepare(dataset: DataSet, seed: int, cache: Path | None = None) -> FederatedData:
    """The data set dealt out to its clients: from the cache, or made now and kept there.

    Args:
        dataset: The data set with its partition.
        seed: Of the job; decides who holds which example, never which examples are for testing.
        cache: The folder of prepared data; by default `$MUSTER_CACHE`, else `~/.cache/muster`.

    Raises:
        DataError: A source is missing or damaged, the data set breaks its contract, or the cache
            cannot be written (a full disk, say); nothing half-written is left then.
        UserError: The partition is impossible with these examples.
    """
    if cache is None:
        cache = Path(os.environ.get("MUSTER_CACHE") or "~/.cache/muster")
    path = cache.expanduser() / f"{dataset.part_name()}-{_key(dataset, seed)}"
    if path.exists():
        try:
            return FederatedData.open(path, verify=True)
        except DataError as error:
            log.warning("%s; it is prepared anew", error)
    raw = _load(dataset)
    assignment = _assign(dataset, raw, seed)
    _check_assignment(dataset, assignment, len(raw.train))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path.parent))
        try:
            _write(aside, raw, assignment)
            _publish(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space or set" if full else "set"
        raise DataError(
            f"{dataset.part_name()} cannot be prepared in {path.parent}: {error.strerror or error}; "
            f"{fix} MUSTER_CACHE to a folder that can hold about {_num_bytes(raw) / 1e6:.0f} MB"
        ) from error
    return FederatedData.open(path)


def _key(dataset: DataSet, seed: int) -> str:
    parts = json.dumps([dumps(dataset), seed, dataset.fingerprint(), FORMAT])
    return hashlib.sha256(parts.encode()).hexdigest()[:20]


def _load(dataset: DataSet) -> Raw:
    """Loads and checks; what a user's own code raises is told as a sentence."""
    try:
        raw = dataset.load()
    except MusterError:
        raise
    except Exception as error:
        if built_in(dataset):
            raise
        kind = type(error).__name__
        raise DataError(f"data set {dataset.part_name()}: load() raised {kind}: {error}") from error
    _check_raw(dataset.part_name(), raw)
    return raw


def _assign(dataset: DataSet, raw: Raw, seed: int) -> Assignment:
    """Deals out; what a user's own partition raises is told as a sentence."""
    partition = dataset.partition
    try:
        return partition.assign(raw.train.y, raw.facts.num_classes, raw.natural, rng(seed, "partition"))
    except MusterError:
        raise
    except Exception as error:
        if type(partition).__module__.startswith("muster."):
            raise
        kind = type(error).__name__
        raise DataError(f"partition {partition.part_name()}: assign() raised {kind}: {error}") from error


def _check_raw(name: str, raw: Any) -> None:
    """Raises DataError unless the examples are what the facts say they are."""
    if not isinstance(raw, Raw):
        kind = type(raw).__name__
        raise DataError(f"data set {name}: load() returned {kind}, but must return a muster.data.dataset.Raw")
    for split, examples in (("train", raw.train), ("test", raw.test)):
        wrong = _fault(raw.facts, examples)
        if wrong:
            raise DataError(f"data set {name}: {split} {wrong}")
    if raw.train.text is not raw.test.text:
        raise DataError(f"data set {name}: train and test must share one text, or have none")
    if raw.natural is not None:
        if raw.natural.shape != (len(raw.train),) or raw.natural.dtype.kind != "i":
            raise DataError(f"data set {name}: natural must be i32[{len(raw.train)}], one client per example")
        if raw.natural.min() < 0 or (raw.natural_names and raw.natural.max() >= len(raw.natural_names)):
            raise DataError(f"data set {name}: natural must index its {len(raw.natural_names)} natural_names")


def _fault(facts: Facts, examples: Examples) -> str:
    """What is wrong with some examples; empty if nothing is."""
    x, y, text = examples.x, examples.y, examples.text
    array: Any
    for field, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray):
            return f"needs {field} as a NumPy array, not {type(array).__name__}"
    if y.ndim != 1 or y.dtype != np.int64 or len(x) != len(y):
        return f"needs y as i64[N] beside x [N, ...], not {y.dtype}{list(y.shape)} beside {list(x.shape)}"
    if len(y) == 0:
        return "has no examples"
    if y.min() < 0 or y.max() >= facts.num_classes:
        return f"has classes {y.min()}..{y.max()}, but facts.num_classes allows 0..{facts.num_classes - 1}"
    if text is not None:
        last = len(text) - facts.input_shape[0]
        if x.dtype != np.int64 or text.dtype != np.uint8 or x.min() < 0 or x.max() > last:
            return f"needs x as i64[N] starts of windows in 0..{last} of a u8 text"
    elif x.shape[1:] != facts.input_shape:
        return f"has examples of shape {x.shape[1:]}, but facts.input_shape is {facts.input_shape}"
    elif x.dtype not in (np.uint8, np.float32):
        return f"has x of type {x.dtype}, but must have uint8 or float32"
    elif x.dtype == np.float32 and not np.isfinite(x).all():
        return "has x with NaN or infinite values"
    return ""


def _check_assignment(dataset: DataSet, assignment: Any, num_examples: int) -> None:
    """Raises DataError if a partition, perhaps a user's own, gives examples twice or none at all."""
    name = dataset.partition.part_name()
    if not isinstance(assignment, Assignment):
        kind = type(assignment).__name__
        raise DataError(f"partition {name}: assign() returned {kind}, but must return an Assignment")
    order, offsets = assignment.order, assignment.offsets
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(order) or (np.diff(offsets) < 1).any():
        raise DataError(f"partition {name}: every client must hold an example, offsets from 0 to len(order)")
    if order.min() < 0 or order.max() >= num_examples or np.bincount(order).max() > 1:
        raise DataError(f"partition {name}: order must hold indices below {num_examples}, none twice")


def _write(folder: Path, raw: Raw, assignment: Assignment) -> None:
    """Writes all arrays, then `facts.json`, into an empty folder."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "x": raw.train.x[assignment.order],
        "y": raw.train.y[assignment.order],
        "offsets": assignment.offsets.astype(np.int64),
        "test_x": raw.test.x,
        "test_y": raw.test.y,
    }
    if raw.train.text is not None:
        arrays["text"] = raw.train.text
    stored = {
        "format": FORMAT,
        "facts": asdict(raw.facts),
        "client_names": _client_names(raw, assignment),
        "arrays": {name: write_array(folder / f"{name}.npy", array) for name, array in arrays.items()},
    }
    stored = json.loads(json.dumps(stored))  # tuples become lists, as they will be read
    text = json.dumps({**stored, "sha256": digest_of(stored)}, indent=1, sort_keys=True)
    (folder / "facts.json").write_text(text + "\n", encoding="utf-8")


def _client_names(raw: Raw, assignment: Assignment) -> tuple[str, ...]:
    """Names of the clients if each holds examples of one natural client only, else none."""
    if raw.natural is None or not raw.natural_names:
        return ()
    owners = raw.natural[assignment.order]
    first = owners[assignment.offsets[:-1]]
    if (owners != np.repeat(first, assignment.sizes)).any():
        return ()
    return tuple(raw.natural_names[i] for i in first)


def _publish(aside: Path, path: Path) -> None:
    """Gives a whole folder its name. A sound one that another process made first stays."""
    for _ in range(10):
        try:
            os.rename(aside, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        try:
            FederatedData.open(path, verify=True)
            return
        except DataError:
            _discard(path)
    raise OSError(errno.EBUSY, f"other processes keep replacing {path}")


def _discard(path: Path) -> None:
    """Takes a damaged folder away by renaming it first: no process sees it half-deleted."""
    doomed = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path.parent))
    try:
        os.rename(path, doomed / "damaged")
    except FileNotFoundError:
        pass  # another process took it away
    finally:
        shutil.rmtree(doomed, ignore_errors=True)


def _remove_abandoned(cache: Path) -> None:
    """Removes what killed processes left beside the prepared folders."""
    for folder in cache.glob(f"{ASIDE}*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED_SECS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def _num_bytes(raw: Raw) -> int:
    text = raw.train.text
    arrays = [raw.train.x, raw.train.y, raw.test.x, raw.test.y] + ([] if text is None else [text])
    return sum(array.nbytes for array in arrays)

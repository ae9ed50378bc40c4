"""What a data set is: settings, a way to load it, and a fingerprint of what it is loaded from."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Sequence

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError
from muster.core.examples import Examples, Facts
from muster.core.part import Part
from muster.data.federated import file_sha256
from muster.data.partition import Partition


@dataclass(frozen=True)
class Raw:
    """A data set as it was loaded, before it is dealt out to clients."""

    facts: Facts
    train: Examples
    test: Examples
    natural: npt.NDArray[np.int32] | None = None
    """i32[N]: natural client of each training example; None if the data set knows of none."""
    natural_names: tuple[str, ...] = ()
    """Name of each natural client, indexed by the values of `natural`."""


class DataSet(Part, ABC):
    """Training and test examples, and how the training examples are dealt out to clients.

    A user's own data set is a frozen dataclass that declares `task`, a field `partition` and `load`.
    """

    task: ClassVar[str] = "classification"
    """Name of the task that a job file need not spell out."""
    partition: Partition

    @abstractmethod
    def load(self) -> Raw:
        """All examples in memory. Called once, when the data set is prepared.

        Raises:
            DataError: A source file is missing or damaged; says where it was looked for.
        """

    def sources(self) -> Sequence[Path]:
        """The files that `load` reads. If one changes, the data set is prepared anew.

        Raises:
            DataError: A source file is missing; says where it was looked for.
        """
        return ()

    def fingerprint(self) -> str:
        """Hash of names, sizes and contents of the source files, and of a user's own Python files.

        Raises:
            DataError: A source file is missing or cannot be read.
        """
        files = list(self.sources())
        digest = hashlib.sha256()
        for part in (self, self.partition):
            if built_in(part):
                continue
            code = getattr(sys.modules.get(type(part).__module__), "__file__", None)
            if code is not None and Path(code).is_file():
                files.append(Path(code))
            else:  # a notebook's class
                with suppress(OSError, TypeError):
                    digest.update(inspect.getsource(type(part)).encode())
        for file in files:
            try:
                content, size = file_sha256(file), file.stat().st_size
            except OSError as error:
                raise DataError(f"{self.part_name()}: cannot read {file}: {error.strerror}") from error
            digest.update(f"{file.name}:{size}:{content}\n".encode())
        return digest.hexdigest()


def built_in(part: Part) -> bool:
    """Whether Muster itself brings this part."""
    return type(part).__module__.startswith("muster.")


def source_files(owner: str, root: str | None, folder: str, names: Sequence[str]) -> tuple[Path, ...]:
    """Paths of the files of a data set: in `root` if given, else in `$MUSTER_DATA/folder`.

    Raises:
        DataError: A file is not there; says where it was looked for and what to set.
    """
    fix = f"set MUSTER_DATA to the folder that holds {folder}/, or {owner}.root to the folder of the files"
    parent = os.environ.get("MUSTER_DATA")
    if root is None and not parent:
        raise DataError(f"{owner} needs {', '.join(names)}, but the variable MUSTER_DATA is not set; {fix}")
    place = Path(root).expanduser() if root is not None else Path(parent or "").expanduser() / folder
    if not place.is_dir():
        raise DataError(f"{owner}: the folder {place} does not exist; {fix}")
    paths = tuple(place / name for name in names)
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise DataError(f"{owner}: {', '.join(absent)} not found in {place}; {fix}")
    return paths

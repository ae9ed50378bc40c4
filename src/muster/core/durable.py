"""What is to outlive a power cut. A file's name is kept by its folder, which is synced by itself."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk.

    Raises:
        OSError: They cannot be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_place(aside: Path, path: Path) -> None:
    """Gives a file or a folder that is synced its name: there is the old one or the new, never half.

    Raises:
        OSError: It cannot be renamed.
    """
    aside.replace(path)
    sync(path.parent)


def make_folder(path: Path) -> None:
    """A folder, and those above it, if they are not there; their names are on the disk.

    Raises:
        OSError: It cannot be made.
    """
    path = path.absolute()
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync(each.parent)

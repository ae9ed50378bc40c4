"""New processes that do not run the caller's script again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

MAIN = "__main__"


@contextmanager
def without_main() -> Iterator[None]:
    """A process that is spawned meanwhile does not import the script that the user has started.

    Python has it do so, in case it needs something from there. A script that simulates where it is read, and
    not below `if __name__ == "__main__"`, would then simulate in each worker as well, and fail there.
    """
    main = sys.modules[MAIN]
    sys.modules[MAIN] = ModuleType(MAIN)  # it has no file and no spec, so there is nothing to import
    try:
        yield
    finally:
        sys.modules[MAIN] = main

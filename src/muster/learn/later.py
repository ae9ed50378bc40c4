"""Metrics that are still being made: whoever looks at them waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

V = TypeVar("V", covariant=True)


class Later(Mapping[str, V]):
    """Metrics by name.

    Args:
        wait: Returns them when they are there; called once.
        is_there: Whether they are there by now.

    """

    def __init__(self, wait: Callable[[], Mapping[str, V]], is_there: Callable[[], bool]) -> None:
        self._wait, self._is_there = wait, is_there
        self._found: Mapping[str, V] | None = None

    @property
    def ready(self) -> bool:
        """Whether nobody would wait."""
        return self._found is not None or self._is_there()

    @property
    def found(self) -> Mapping[str, V]:
        """The metrics; waits for them."""
        if self._found is None:
            self._found = self._wait()
        return self._found

    def __getitem__(self, name: str) -> V:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

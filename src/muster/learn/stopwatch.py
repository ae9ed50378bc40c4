"""Where wall time goes: stretches by name; of nested ones only the innermost counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

LEARNER = {"train": "train", "train_together": "train", "evaluate": "evaluate"}
"""What of a learner is watched, wherever it runs: method -> name."""


class Stopwatch:
    """Seconds and beginnings by name. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._inside: list[str] = []
        self._since = 0.0
        self.secs: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self.workers: dict[int, Stopwatch] = {}
        """Those of the worker processes, by number."""

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """A stretch of `name`; what is inside of it under other names is not counted for it."""
        self._book()
        self._inside.append(name)
        self.times[name] = self.times.get(name, 0) + 1
        try:
            yield
        finally:
            self._book()
            self._inside.pop()

    def _book(self) -> None:
        now = self._clock()
        if self._inside:
            name = self._inside[-1]
            self.secs[name] = self.secs.get(name, 0.0) + now - self._since
        self._since = now

    def read(self) -> dict[str, dict[str, Any]]:
        """Seconds and beginnings as JSON data; they begin again from zero."""
        told: dict[str, dict[str, Any]] = {"secs": self.secs, "times": self.times}
        self.secs, self.times = {}, {}
        return told

    def add(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds what another watch read."""
        for name, secs in told["secs"].items():
            self.secs[name] = self.secs.get(name, 0.0) + secs
        for name, times in told["times"].items():
            self.times[name] = self.times.get(name, 0) + times


class _Watched:
    """Does what another object does, some of it under the watch."""

    def __init__(self, inner: Any, watch: Stopwatch, names: Mapping[str, str]) -> None:
        self._inner, self._watch, self._names = inner, watch, names

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._inner, attribute)
        name = self._names.get(attribute)
        if name is None:
            return found

        def timed(*args: Any, **settings: Any) -> Any:
            with self._watch.at(name):
                return found(*args, **settings)

        self.__dict__[attribute] = timed
        return timed


def watched(inner: T, watch: Stopwatch | None, **names: str) -> T:
    """`inner`, its methods under the watch: method -> name. Without a watch: `inner` itself."""
    made: Any = inner if watch is None else _Watched(inner, watch, names)
    return made  # type: ignore[no-any-return]

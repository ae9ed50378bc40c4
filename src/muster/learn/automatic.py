"""`workers: auto`: this process to begin with, a pool when training turns out to take long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from muster.core.params import Vector
from muster.core.tables import Ids, Table

from .crew import Inline, Kept, Total
from .learner import Scores, Sent
from .pool import Pool
from .states import Learnt

POOL_AFTER_SECS = 5.0
"""With `workers: auto`, a pool is started once training in this process has taken so long."""


class Automatic:
    """Begins in this process, and starts a pool when training turns out to take long.

    How many workers there are changes no bit of the result, so timing may decide it.
    """

    def __init__(
        self, inline: Inline, make_pool: Callable[[], Pool], max_workers: int, say: Callable[[str], None]
    ) -> None:
        self._inline, self._make_pool, self._max, self._say = inline, make_pool, max_workers, say
        self._crew: Inline | Pool = inline
        self._spent = 0.0

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Counts how long it takes."""
        begin = time.perf_counter()
        yield
        self._spent += time.perf_counter() - begin

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains with whoever is there."""
        with self._timed():
            return self._crew.train(tasks, staleness, sent, kept, now)

    @property
    def together(self) -> int:
        """As many as whoever is there trains together."""
        return self._crew.together

    def learn(self, tasks: Table, sent: Mapping[int, Sent]) -> list[Learnt]:
        """Trains with whoever is there."""
        with self._timed():
            return self._crew.learn(tasks, sent)

    def fold(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], learnt: Sequence[Learnt], now: Sent
    ) -> Table:
        """Folds with whoever is there."""
        return self._crew.fold(tasks, staleness, sent, learnt, now)

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """Measures with whoever is there."""
        with self._timed():
            return self._crew.measure(tasks, sent, kept)

    def evaluate(self, version: int, params: Vector) -> Mapping[str, float]:
        """Evaluates with whoever is there."""
        with self._timed():
            return self._crew.evaluate(version, params)

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """Evaluates with whoever is there."""
        with self._timed():
            return self._crew.evaluate_each(version, params, clients, kept)

    def total(self) -> Total:
        """The sum of whoever trained."""
        return self._crew.total()

    def clear(self) -> None:
        """Zeroes the sum; between versions is the time to change hands."""
        self._crew.clear()
        if self._crew is self._inline and self._max > 1 and self._spent > POOL_AFTER_SECS:
            self._say(
                f"workers: {self._max} from here on (one process has been at it for {self._spent:.1f} s)"
            )
            self._crew = self._make_pool()

    def peaks(self) -> tuple[int, ...]:
        """Of the pool, if there is one."""
        return self._crew.peaks()

    def close(self) -> None:
        """Ends the pool, if there is one."""
        self._crew.close()

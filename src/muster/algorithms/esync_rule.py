"""ESync's rule: how many more steps a worker makes before it pushes, so that the slowest waits for nobody.

Algorithm 1 and equations 1 to 3 of the paper that `esync.py` cites; a simulation and the state server of a
deployment both ask it. Times are integer nanoseconds of one clock, so that 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

from typing import Iterable, Protocol, TypeVar


class Worker(Protocol):
    """What the rule must know of a worker."""

    @property
    def rank(self) -> int:
        """Ties for the slowest go to the lowest."""

    @property
    def round(self) -> int:
        """The newest that it has entered."""

    @property
    def iteration(self) -> int:
        """Steps that it has made in its round."""

    @property
    def compute_ns(self) -> int:
        """c: what one step takes; 0: not known yet."""

    @property
    def send_ns(self) -> int:
        """m: what its push takes."""

    @property
    def stamp_ns(self) -> int:
        """t: when it entered its round, or made its last step."""

    @property
    def synced(self) -> bool:
        """Whether it was told to push."""


W = TypeVar("W", bound=Worker)


def slowest(workers: Iterable[W]) -> W | None:
    """The straggler s = argmax c + m; whose c is not known might be it, so it is."""
    return max(workers, key=lambda w: (w.compute_ns == 0, w.compute_ns + w.send_ns, -w.rank), default=None)


def more_steps(own: Worker, straggler: Worker, now_ns: int, margin_ns: int = 0) -> int:
    """How many steps `own` makes before it asks again; 0: it pushes now.

    Args:
        own: Who asks.
        straggler: The slowest of the workers that are waited for.
        now_ns: When.
        margin_ns: The last step must end so long before the straggler's push; below 0, it may end later.
    """
    if own.rank == straggler.rank:
        return int(own.iteration == 0)
    if straggler.compute_ns == 0 or straggler.round < own.round:
        return 1  # it has not entered the round, or might still be no straggler: nothing can be foretold
    push_ns = straggler.stamp_ns + straggler.compute_ns + straggler.send_ns - margin_ns
    left_ns = push_ns - now_ns - own.send_ns
    fits = left_ns // own.compute_ns if own.compute_ns else 1  # a step that ends with it still fits
    if straggler.iteration or straggler.synced or fits < 1:
        return int(own.iteration == 0)
    return fits

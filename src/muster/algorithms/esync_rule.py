"""ESync's rule: how many more steps a worker makes before it pushes, so that the slowest waits for nobody.

Algorithm 1 and equations 1 to 3 of the paper that `esync.py` cites; a simulation and the state server of a
deployment both ask it. Times are integer nanoseconds of one clock, so that 0.1 + 0.2 is 0.3.

Of the two rules, `paper` compares computing and sending; `compute_only` is that of the authors' first code
(2019), which left sending out.
"""

from __future__ import annotations

from typing import Iterable, Literal, Protocol, TypeVar, get_args

Rule = Literal["paper", "compute_only"]
RULES: tuple[str, ...] = get_args(Rule)


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


def slowest(workers: Iterable[W], rule: Rule = "paper") -> W | None:
    """The straggler s = argmax c + m; whose c is not known might be it, so it is."""

    def key(worker: W) -> tuple[bool, int, int]:
        return worker.compute_ns == 0, worker.compute_ns + _send_ns(worker, rule), -worker.rank

    return max(workers, key=key, default=None)


def more_steps(own: Worker, straggler: Worker, now_ns: int, margin_ns: int = 0, rule: Rule = "paper") -> int:
    """How many steps `own` makes before it asks again; 0: it pushes now.

    As many as it would make by asking after each: the paper's rule ends the round for all once the straggler
    has made its step, however long its push then takes.

    Args:
        own: Who asks.
        straggler: The slowest of the workers that are waited for.
        now_ns: When.
        margin_ns: The last step must end so long before the straggler's push; below 0, it may end later.
        rule: Whether sending counts.
    """
    first = int(own.iteration == 0)
    if own.rank == straggler.rank:
        return first
    if straggler.compute_ns == 0 or straggler.round < own.round:
        return 1  # it has not entered the round, or might still be no straggler: nothing can be foretold
    if straggler.iteration or straggler.synced:
        return first
    if own.compute_ns == 0:
        return 1
    stepped_ns = straggler.stamp_ns + straggler.compute_ns
    left_ns = stepped_ns + _send_ns(straggler, rule) - margin_ns - now_ns - _send_ns(own, rule)
    fits = left_ns // own.compute_ns  # a step that ends with it still fits
    begins = -(
        (now_ns - stepped_ns + min(margin_ns, 0)) // own.compute_ns
    )  # before the straggler's step ends
    return max(min(fits, max(begins, 1)), first)


def _send_ns(worker: Worker, rule: Rule) -> int:
    return worker.send_ns if rule == "paper" else 0

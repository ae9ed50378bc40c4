"""Many clients' local training as one program: the rule sees a row for each client.

Clients are sorted by their numbers of steps, so that those that still train are always the first rows:
nothing is masked but the short last batch of an epoch, and what has ended is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Array, Local, Vectors
from muster.core.randomness import rng

from .descent import beside, copied, descend

CHUNK_BYTES = 1 << 20
"""Of the parameters of the clients that train together: they stay in the second-level cache."""
MOST = 64
"""Clients that train together at most: more gain nothing, and a chunk is what one worker gets."""


COMPILED_BYTES, MOST_COMPILED = 4 << 20, 128
"""The same for a compiled program, whose call costs more, and which keeps less in memory at a time."""


def chunk_for(model_bytes: int) -> int:
    """Clients that train together if the job does not say: as many models as the cache holds, up to 64."""
    return max(1, min(MOST, CHUNK_BYTES // model_bytes))


def chunk_for_compiled(model_bytes: int) -> int:
    """The same where each number of clients is compiled for: a power of two."""
    fit = max(1, min(MOST_COMPILED, COMPILED_BYTES // model_bytes))
    return 1 << (fit.bit_length() - 1)


DEVICE_BYTES, MOST_ON_DEVICE = 1 << 30, 4096
"""The same on a GPU. Gradients, updates and what convolutions need beside it come to tenfold."""


def chunk_on_device(model_bytes: int) -> int:
    """The same on a GPU: by the model alone, since it may change bits, and not by the GPU's memory."""
    return max(1, min(MOST_ON_DEVICE, DEVICE_BYTES // model_bytes))


def few(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: at most half as many again.

    For what is made anew for each number, of clients or of steps.
    """
    whole = 1 << (count - 1).bit_length()
    return 3 * whole // 4 if whole >= 4 and count <= 3 * whole // 4 else whole


class Memory:
    """What a rule remembers of a cohort, [K, n] by name, of which it sees the rows that still train."""

    def __init__(self, vectors: Vectors) -> None:
        self._whole = dict(vectors)
        self._owned: set[str] = set()

    def first(self, live: int) -> dict[str, Any]:
        """Views of the first rows."""
        return {name: vector[:live] for name, vector in self._whole.items()}

    def put(self, given: Vectors, moved: Vectors, live: int) -> None:
        """Takes what the rule made of the views that it was given."""
        for name, vector in moved.items():
            if name in given and vector is given[name]:
                continue
            if name not in self._whole or len(self._whole[name]) == live:
                self._whole[name] = vector
            else:
                if name not in self._owned:  # it may be another's: what was sent, or what is kept
                    self._whole[name] = copied(self._whole[name])
                self._whole[name][:live] = vector
            self._owned.add(name)


def descend_together(
    local: Local,
    params: Array,
    gradient: Array,
    sent: Vectors,
    kept: Sequence[Vectors | None],
    counts: npt.NDArray[np.int64],
    backward: Callable[[int, int], Any],
    step: Callable[[Any, Vectors], tuple[Any, Vectors]] | None = None,
) -> tuple[Vectors, Vectors, list[tuple[int, Any]]]:
    """`descend` for K clients at once; `params` ends as the models whose differences are the deltas.

    Args:
        local: The rule.
        params: The working models' parameters, f32[K, P], holding the models sent.
        gradient: Where `backward` leaves the gradients at `params`, f32[K, P].
        sent: What each client was sent, f32[K, P] by name.
        kept: What each client has kept; None if it has nothing yet.
        counts: i64[K] >= 1, descending: batches of each client.
        backward: (number of the batch, how many of the first clients) -> the losses of their examples;
            leaves the gradients of their means in the first rows.
        step: Does what the rule's own step does with the first rows, if the gradient lies elsewhere; nothing
            where `backward` has stepped already.

    Returns:
        The vectors that go up beside the deltas and the lasting states, [K, n] by name; and the batch's
        number and losses of each step.

    """

    def put(moved: Any, live: int) -> None:
        if moved is not views[live]:
            params[:live] = moved

    everyone = len(params)
    alive = lives(counts)
    views = {live: params[:live] for live in {everyone, *alive}}
    slopes = {live: gradient[:live] for live in views}
    received = {live: {name: vector[:live] for name, vector in sent.items()} for live in views}
    losses = []
    moved, vectors = local.begin(sent, stacked(local.fresh(sent), kept))
    put(moved, everyone)
    memory = Memory(vectors)
    for number in range(local.passes):
        given = memory.first(everyone)
        moved, vectors = local.enter(number, views[everyone], sent, given)
        put(moved, everyone)
        memory.put(given, vectors, everyone)
        for batch, live in enumerate(alive):
            for _ in range(local.repeats):
                losses.append((batch, backward(batch, live)))
                given = memory.first(live)
                if step is None:
                    moved, vectors = local.step(views[live], slopes[live], received[live], given)
                else:
                    moved, vectors = step(views[live], given)
                put(moved, live)
                memory.put(given, vectors, live)
            given = memory.first(live)
            moved, vectors = local.settle(views[live], received[live], given)
            put(moved, live)
            memory.put(given, vectors, live)
    count = beside(params, counts.astype(np.float32)[:, None])
    moved, ups, state = local.finish(views[everyone], sent, memory.first(everyone), count)
    put(moved, everyone)
    return ups, state, losses


def lives(counts: npt.NDArray[np.int64]) -> list[int]:
    """How many clients train at each batch, of those that have so many, i64[K] >= 1, descending."""
    return [int(np.count_nonzero(counts > number)) for number in range(int(counts[0]))]


def stacked(fresh: Vectors, kept: Sequence[Vectors | None]) -> dict[str, Any]:
    """The clients' lasting states, a row each: what they have kept, else what the rule begins with."""
    stacked = {}
    for name, vectors in fresh.items():
        stacked[name] = copied(vectors)
        for row, mine in zip(stacked[name], kept, strict=True):
            if mine is not None:
                row[:] = mine[name]
    return stacked


def side_by_side(local: Local) -> bool:
    """Whether a rule gives two clients side by side what it gives each of them alone.

    A rule of a user's may have been written with one client in mind, say with one norm over all it is
    given. It is tried on small vectors: two clients of three steps and one, with gradients that are drawn.
    """
    draw = rng(0, "side by side")
    size, counts = 24, np.array([3, 1])
    sent = {name: draw.normal(size=(2, size)).astype(np.float32) for name in local.down}
    slopes = (9 * draw.normal(size=(8, 2, size))).astype(np.float32)
    try:
        together, alone = sent["model"].copy(), sent["model"].copy()
        gradient = np.zeros_like(together)

        def both(number: int, live: int) -> None:
            gradient[:live] = slopes[number, :live]

        ups, state, _ = descend_together(local, together, gradient, sent, [None, None], counts, both)
        for i, count in enumerate(counts.tolist()):
            mine = {name: vector[i] for name, vector in sent.items()}
            row = gradient[i]

            def one(index: npt.NDArray[np.int64], i: int = i, row: Any = row) -> None:
                row[:] = slopes[int(index[0]), i]

            batches = [np.array([number]) for number in range(count)]
            up, kept, _ = descend(local, alone[i], row, mine, None, batches, one)
            for name, vector in [*up.items(), *kept.items()]:
                whole = ups[name] if name in up else state[name]
                if not np.allclose(whole[i], vector, rtol=1e-4, atol=1e-5):
                    return False
        return bool(np.allclose(together, alone, rtol=1e-4, atol=1e-5))
    except Exception:  # a rule that cannot be tried so trains one client after another, and fails there
        return False

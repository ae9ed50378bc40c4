"""How well each client is served: its own model on test examples of its own mix of labels.

A mean over one test set says nothing of whom a model fails. Here every client is given a share of the test
set, drawn by seed so that its labels are as frequent as among the client's training examples; the model that
the client would use itself (a personal one where its rule keeps one) is evaluated on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local
from muster.core.examples import Examples
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.store import decode
from muster.core.tables import Ids
from muster.track.summary import falls

from .learner import Scores
from .trainer import Trainer


@dataclass
class Shares:
    """Evaluates clients, each on its share.

    Args:
        trainer: Knows the model, the data and the clients' rule.
        size: Test examples of each.

    """

    trainer: Trainer
    size: int

    def measure(self, model: Vector, clients: Ids, kept: Mapping[int, bytes]) -> Scores:
        """Means over each client's share, f64[K] by metric; `kept` is what clients have that keep something.

        Those that use the global model share its scores: an example that several have is looked at once.
        """
        own = [self.own(model, client, kept.get(client)) for client in clients.tolist()]
        common = np.array([mine is model for mine in own])
        found: dict[str, npt.NDArray[np.float64]] = {}

        def put(where: Any, scores: Mapping[str, Any]) -> None:
            for name, values in scores.items():
                found.setdefault(name, np.empty(len(clients)))[where] = values

        if common.any():
            index, place = np.unique([self.drawn(i) for i in clients[common].tolist()], return_inverse=True)
            scores = self.trainer.learner.scores(model, self._test(index))
            put(common, {k: v[place].reshape(-1, self.size).mean(1) for k, v in scores.items()})
        for i in np.flatnonzero(~common).tolist():
            put(i, self.trainer.learner.evaluate(own[i], self._test(np.sort(self.drawn(int(clients[i]))))))
        return found

    def own(self, model: Vector, client: int, kept: bytes | None) -> Vector:
        """The model that a client uses itself, f32[size]: `model` itself where it has none of its own."""
        spec, local = self.trainer.learner.spec, self.trainer.folding.local
        received, mine, _ = self.trainer.received({"model": model}, None if kept is None else decode(kept))
        if mine is None or type(local).own is Local.own:
            return received["model"]
        whole = np.array(received["model"])
        whole[: spec.trained] = local.own(whole[: spec.trained], mine)
        return whole

    def drawn(self, client: int) -> Ids:
        """Which test examples are a client's, i64[size]; of any label if none has one of its labels."""
        labels = np.asarray(self.trainer.data.client(client).y)
        draw = rng(self.trainer.folding.seed, "own test examples", client)
        order, found, starts, counts = self._by_label
        wanted = draw.choice(labels, self.size)
        at = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
        known = found[at] == wanted
        nth = draw.integers(np.where(known, counts[at], len(order)))
        drawn: Ids = order[np.where(known, starts[at] + nth, nth)]
        return drawn

    def _test(self, index: Ids) -> Examples:
        test = self.trainer.data.test
        return Examples(np.asarray(test.x)[index], np.asarray(test.y)[index], test.text)

    @cached_property
    def _by_label(self) -> tuple[Ids, Ids, Ids, Ids]:
        """Test examples sorted by label; the labels, where each begins in that order, and how many it has."""
        labels = np.asarray(self.trainer.data.test.y)
        order = np.argsort(labels, kind="stable")
        return order, *np.unique(labels[order], return_index=True, return_counts=True)


def over_clients(scores: Scores, num_examples: Ids) -> dict[str, float]:
    """What is told of all clients, from each one's means, f64[K] by metric.

    `clients_mean_METRIC`; `clients_weighted_METRIC`, by numbers of examples; `clients_worst10_METRIC`,
    the mean of the worst tenth; `clients_d1_METRIC` to `d9`, the deciles.
    """
    weights, told = num_examples.astype(np.float64), {}
    for name, values in scores.items():
        worst = np.sort(values if not falls(name) else -values)[: ceil(len(values) / 10)].mean()
        told[f"clients_mean_{name}"] = float(values.mean())
        told[f"clients_weighted_{name}"] = float(values @ weights / weights.sum())
        told[f"clients_worst10_{name}"] = float(abs(worst))
        for tenth in range(1, 10):
            told[f"clients_d{tenth}_{name}"] = float(np.quantile(values, tenth / 10))
    return told


def side_by_side(parts: Sequence[Scores]) -> Scores:
    """The scores of clients that were evaluated in parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

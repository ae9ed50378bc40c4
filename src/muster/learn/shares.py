"""How well each client is served: its own model on test examples of its own mix of labels.

A mean over one test set says nothing of whom a model fails. Here every client is given a share of the test
set, drawn by seed so that its labels are as frequent as among the client's training examples; the model that
the client would use itself (a personal one where its rule keeps one) is evaluated on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.store import ClientStore, decode
from muster.track.summary import falls

from .trainer import Trainer


@dataclass
class Shares:
    """Evaluates all clients, one after another.

    Args:
        trainer: Knows the model, the data and the clients' rule.
        store: What clients keep.
        size: Test examples of each.

    """

    trainer: Trainer
    store: ClientStore
    size: int

    def measure(self, model: Vector) -> dict[str, float]:
        """Over all clients that have examples, for each metric of the task.

        `clients_mean_METRIC`; `clients_weighted_METRIC`, by numbers of examples; `clients_worst10_METRIC`,
        the mean of the worst tenth; `clients_d1_METRIC` to `d9`, the deciles.
        """
        counts = self.trainer.data.num_examples
        clients = np.flatnonzero(counts > 0).tolist()
        each = [self.trainer.learner.evaluate(self.own(model, i), self.examples(i)) for i in clients]
        weights, told = counts[clients].astype(np.float64), {}
        for name in each[0] if each else ():
            values = np.array([found[name] for found in each])
            worst = np.sort(values if not falls(name) else -values)[: ceil(len(values) / 10)].mean()
            told[f"clients_mean_{name}"] = float(values.mean())
            told[f"clients_weighted_{name}"] = float(values @ weights / weights.sum())
            told[f"clients_worst10_{name}"] = float(abs(worst))
            for tenth in range(1, 10):
                told[f"clients_d{tenth}_{name}"] = float(np.quantile(values, tenth / 10))
        return told

    def own(self, model: Vector, client: int) -> Vector:
        """The model that a client uses itself, f32[size]."""
        encoded, trained = self.store.read(client), self.trainer.learner.spec.trained
        kept = None if encoded is None else decode(encoded)
        received, mine, _ = self.trainer.received({"model": model}, kept)
        if mine is None:
            return received["model"]
        whole = np.array(received["model"])
        whole[:trained] = self.trainer.folding.local.own(whole[:trained], mine)
        return whole

    def examples(self, client: int) -> Examples:
        """The client's share of the test examples; from all of them if none has a label of its."""
        labels = np.asarray(self.trainer.data.client(client).y)
        draw = rng(self.trainer.folding.seed, "own test examples", client)
        chosen = []
        for label in draw.choice(labels, self.size).tolist():
            places = self._places.get(label, self._everything)
            chosen.append(int(places[draw.integers(len(places))]))
        test = self.trainer.data.test
        index = np.sort(np.array(chosen))
        return Examples(np.asarray(test.x)[index], np.asarray(test.y)[index], test.text)

    @cached_property
    def _everything(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self.trainer.data.test))

    @cached_property
    def _places(self) -> dict[int, npt.NDArray[np.int64]]:
        """Label -> where the test examples have it."""
        labels = np.asarray(self.trainer.data.test.y)
        return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}

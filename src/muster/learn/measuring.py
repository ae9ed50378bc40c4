"""How good the models that clients were sent are on their own examples.

One after another each client's examples go through the model by themselves, as at a deployed client. In a
cohort the examples of all who were sent the same model go through it side by side, which a small model is
faster at; sums of more rows may be rounded otherwise, so the cohorts are those of the tasks, whoever works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from muster.core.examples import Examples
from muster.core.params import Vector

from .learner import Learner, Scores


class Held(Protocol):
    """What clients hold."""

    def client(self, i: int) -> Examples:
        """The examples of client `i`."""
        ...


def measured(
    learner: Learner, data: Held, clients: Sequence[int], models: Sequence[Vector], together: bool
) -> Scores:
    """Loss and accuracy over all examples of each client, f64[K].

    NaN of clients without examples, and of what the task does not measure.

    Args:
        learner: Knows the model.
        data: What the clients hold.
        clients: K of them.
        models: What each was sent, f32[size].
        together: Whether those go through side by side whose model is one array.

    """
    found = {name: np.full(len(clients), np.nan) for name in ("loss", "accuracy")}
    groups: dict[int, list[int]] = {}
    for i, model in enumerate(models):
        groups.setdefault(id(model) if together else i, []).append(i)
    for group in groups.values():
        examples = [data.client(clients[i]) for i in group]
        looked = [(i, each) for i, each in zip(group, examples, strict=True) if len(each)]
        if not looked:
            continue
        (_, first), *others = looked
        every = first.joined([each for _, each in others]) if others else first
        scores = learner.scores(models[group[0]], every)
        ends = np.cumsum([len(each) for _, each in looked])[:-1]
        for name in found.keys() & scores.keys():
            found[name][[i for i, _ in looked]] = [part.mean() for part in np.split(scores[name], ends)]
    return found

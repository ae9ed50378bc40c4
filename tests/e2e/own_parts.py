"""What a user might bring, for the tests of the command line; NumPy models only, so it is quick."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import muster


@dataclass(frozen=True)
class Hardest(muster.Select):
    """Draws the free clients whose last loss was highest, those not seen yet first."""

    reads: ClassVar[tuple[str, ...]] = ("loss",)

    def init(self, population: Any) -> dict[str, Any]:
        return {"loss": np.full(population.num_clients, np.inf)}

    def draw(self, state: Any, k: int, free: Any, rng: np.random.Generator) -> Any:
        return free.among(np.argsort(-state["loss"], kind="stable"))[:k]

    def observe(self, state: Any, now_ns: int, reports: Any) -> dict[str, Any]:
        loss = state["loss"].copy()
        loss[reports["client"]] = reports["loss"]
        return {"loss": loss}


def _gradient_step(data: Any, model: Any, lr: float) -> None:
    """One full-batch step on the mean cross-entropy of a softmax regression."""
    (weight, bias) = model.parameters["dense0.weight"], model.parameters["dense0.bias"]
    x = np.asarray(data.x, np.float32).reshape(len(data), -1)
    scores = x @ weight.T + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = scores / scores.sum(axis=1, keepdims=True)
    error[np.arange(len(data)), np.asarray(data.y)] -= 1
    weight -= lr * (error.T @ x) / len(data)
    bias -= lr * error.mean(axis=0)


class Slowing(muster.Client):
    """Keeps how often it has trained, and takes smaller steps each time.

    While there is a file `dawdle` in the working folder, it takes its time, so that a test can act meanwhile.
    """

    def train(self, data: Any, model: Any, conf: Any) -> Any:
        if Path("dawdle").exists():
            time.sleep(0.01)
        self.state["visits"] = self.state.get("visits", 0) + 1
        _gradient_step(data, model, conf.lr / self.state["visits"])
        return model, {"loss": 1.0}


class Breaking(muster.Client):
    """Raises for as long as there is a file `broken` in the working folder, from its second task on."""

    def train(self, data: Any, model: Any, conf: Any) -> Any:
        if self.state.get("trained") and Path("broken").exists():
            raise ZeroDivisionError("the user's own mistake")
        self.state["trained"] = True
        _gradient_step(data, model, conf.lr)
        return model, {"loss": 1.0}

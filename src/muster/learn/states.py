"""What one task starts from, what its training comes to, and what its client keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local, Vectors
from muster.core.store import encode
from muster.core.tables import Ids

from .learner import Matrix, Sent

ABOUT = "server/"
"""Prefix of what the server's rule remembers about a client."""
UNSENT = "unsent"
"""In a client's lasting state: what compression has left out so far, f32[U, coordinates]."""


@dataclass(frozen=True)
class Learnt:
    """What the training of one task has come to, before anything is made of it."""

    version: int
    """That it was sent."""
    up: Matrix
    """The vectors that go up, f32[U, size]."""
    num_steps: int
    loss: float
    loss_sq_mean: float


@dataclass
class State:
    """What one task starts from, and what is kept after it."""

    received: Sent
    mine: Mapping[str, Any] | None
    """What the client has kept."""
    about: Vectors
    """What the combination's rule remembers of the client."""
    lasting: Mapping[str, Any] | None = None
    """What the client keeps now; None if it stays as it was."""
    unsent: Matrix | None = None
    """What compression has left out so far."""

    @property
    def leaves(self) -> bool:
        """Whether there is anything to be kept."""
        return self.lasting is not None or bool(self.about) or self.unsent is not None

    def encoded(self, refused: bool) -> bytes | None:
        """The state to be written down; None if there is none, or the update was refused."""
        if refused or not self.leaves:
            return None
        about = {f"{ABOUT}{name}": np.asarray(vector) for name, vector in self.about.items()}
        unsent = {} if self.unsent is None else {UNSENT: self.unsent}
        return encode({**(self.lasting or self.mine or {}), **about, **unsent})


def stacked(each: Sequence[Sent]) -> Sent:
    """What clients were sent, a row each: one vector seen many times where all were sent the same."""
    listed = {name: [vectors[name] for vectors in each] for name in each[0]}
    return {
        name: np.broadcast_to(v[0], (len(v), *v[0].shape)) if all(it is v[0] for it in v) else np.stack(v)
        for name, v in listed.items()
    }


def prefix(vectors: Sent, trained: int) -> Sent:
    """The same with the model's vector cut to what rules see of it."""
    return {name: v[:trained] if name == "model" else v for name, v in vectors.items()}


def worths(local: Local, num_steps: Ids) -> npt.NDArray[np.float64]:
    """`Local.worth` of each, f64[K]: few numbers of steps are many clients'."""
    counts, which = np.unique(num_steps, return_inverse=True)
    return np.array([local.worth(count) for count in counts.tolist()], np.float64)[which]

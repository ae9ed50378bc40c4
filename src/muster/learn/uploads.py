"""What becomes of updates between training and the gate: liars forge theirs, and all are compressed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.tables import Table
from muster.data.federated import FederatedData
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress

from .learner import Learner, Matrix, Sent


@dataclass(frozen=True)
class Uploads:
    """The job's compression and attack at work on one worker's tasks.

    Args:
        compress: How vectors are written for the way up; None: as they are.
        attack: What some clients do instead of what they should; None: nothing.
        seed: Keys all of it.
        learner: Trains what liars look at of one another.
        data: What the clients hold.
        personal: Where the entries lie that stay at the clients.

    """

    compress: Compress | None
    attack: Attack | None
    seed: int
    learner: Learner
    data: FederatedData
    personal: npt.NDArray[np.int64]

    @cached_property
    def liars(self) -> frozenset[int]:
        """The clients that attack."""
        attack = self.attack
        return frozenset(attack.liars(self.seed, self.data.num_clients).tolist() if attack else ())

    @cached_property
    def shared(self) -> Any:
        """Where the entries that travel lie."""
        if not len(self.personal):
            return slice(None)
        return np.setdiff1d(np.arange(self.learner.spec.size), self.personal)

    @property
    def poisons(self) -> bool:
        """Whether liars train on something else than their examples."""
        return self.attack is not None and type(self.attack).data is not Attack.data

    def examples(self, client: int, attempt: int) -> Examples:
        """What a client trains on."""
        examples = self.data.client(client)
        if self.attack is None or client not in self.liars or not len(examples):
            return examples
        return self.attack.data(examples, self.data.facts, rng(self.seed, "poison", client, attempt))

    def forge(self, task: Table, received: Sent, up: Matrix) -> None:
        """Puts what a liar sends in the place of the delta it has trained; of the others nothing changes."""
        client, trained = int(task["client"]), self.learner.spec.trained
        if self.attack is None or client not in self.liars:
            return

        def peers(num: int) -> Iterator[Vector]:
            scratch = np.zeros_like(up)
            for liar in sorted(self.liars)[:num]:
                draw = rng(self.seed, "peer", liar, int(task["version"]))
                self.learner.train(received, self.data.client(liar), draw, scratch, None, int(task["steps"]))
                yield scratch[0, :trained]

        draw = rng(self.seed, "forge", client, int(task["attempt"]))
        up[0, :trained] = self.attack.forge(up[0, :trained].copy(), peers, draw)
        up[:, self.personal] = 0.0

    def reached(self, params: Vector, test: Examples) -> dict[str, float]:
        """How far the attack has got with model `params`; the mean over all test examples is its goal.

        The goal is measured on some of them only: what is found on a span is scaled by how many of those are
        in it, against how many there are in all.
        """
        attack, facts = self.attack, self.data.facts
        if attack is None or not attack.goal or not self.num_victims:
            return {}
        found = attack.victims(np.asarray(test.y), facts)
        if not found.any():
            return {attack.goal: 0.0}
        shown = Examples(np.asarray(test.x)[found], np.asarray(test.y)[found], test.text)
        share = self.learner.evaluate(params, attack.wanted(shown, facts)).get("accuracy", math.nan)
        weight = len(shown) / self.num_victims * len(self.data.test) / len(test)
        return {attack.goal: share * weight}

    @cached_property
    def num_victims(self) -> int:
        """Test examples on which the attack's goal is measured."""
        if self.attack is None:
            return 0
        return int(self.attack.victims(np.asarray(self.data.test.y), self.data.facts).sum())

    def written(self, task: Table, up: Matrix, unsent: Matrix | None) -> Matrix | None:
        """Puts what the server will make of each vector in its place; returns what is to be sent later.

        A vector that is not finite goes up as it is: the gate must see it.
        """
        made = self.encoded(task, up, unsent)
        if made is None:
            return unsent
        up[:, self.shared] = made.decoded
        return made.unsent

    def encoded(self, task: Table, up: Matrix, unsent: Matrix | None) -> Encoded | None:
        """The vectors as the rule writes them; None where there is no rule, or one is not finite."""
        if self.compress is None or not np.isfinite(up).all():
            return None
        client, attempt = int(task["client"]), int(task["attempt"])
        return encoded(self.compress, self.seed, client, attempt, up[:, self.shared], unsent)


@dataclass(frozen=True)
class Encoded:
    """The vectors of an update, as a rule writes them."""

    packed: list[bytes]
    decoded: Matrix
    """What the server makes of them, f32[U, n]."""
    unsent: Matrix | None
    """What is to be sent later, f32[U, n]; None where the rule keeps nothing."""


def encoded(
    rule: Compress, seed: int, client: int, attempt: int, vectors: Matrix, unsent: Matrix | None
) -> Encoded:
    """Encodes the finite vectors f32[U, n] of an update, with what was left out before.

    All chance is drawn from the seed, the client and its attempt.
    """
    wanted = vectors if unsent is None else vectors + unsent
    draws = (rng(seed, "compress", client, attempt, i) for i in range(len(wanted)))
    packed = [rule.encode(vector, draw) for vector, draw in zip(wanted, draws, strict=True)]
    decoded = np.stack([rule.decode(data, wanted.shape[1]) for data in packed])
    return Encoded(packed, decoded, wanted - decoded if rule.keeps else None)

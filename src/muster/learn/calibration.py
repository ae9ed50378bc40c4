"""`clock.compute: measured`: how long this machine takes for an example of the job's model."""

from __future__ import annotations

import time

import numpy as np

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.work import Work
from muster.data.federated import FederatedData
from muster.devices.clocks import TRAIN_FACTOR

from .learner import Learner, Sent

TAKE_SECS = 0.5
"""Tasks are timed until so many seconds have gone, three at least; the shortest counts."""
FEWEST = 3


def forward_ms(learner: Learner, data: FederatedData, local: Local, work: Work, initial: Vector) -> float:
    """Milliseconds of an example's forward pass, by the clock's book-keeping: a third of training.

    The client with the median number of examples does its task again and again. The shortest time is
    kept, since other programs can only make it longer.

    Args:
        learner: As it will train.
        data: What the clients hold.
        local: The clients' rule; what it costs beyond a gradient is in the figure.
        work: What one task trains.
        initial: The untrained model, f32[size].

    Raises:
        UserError: No client holds an example.

    """
    holders = np.flatnonzero(data.num_examples)
    if not len(holders):
        raise UserError("clock.compute measured trains one client, but no client holds an example")
    client = int(holders[np.argsort(data.num_examples[holders], kind="stable")[len(holders) // 2]])
    examples, count = data.client(client), np.array([data.num_examples[client]], np.int64)
    passes = local.passes * local.repeats * float(work.num_trained(count)[0])
    forwards = TRAIN_FACTOR * passes + int(local.needs_loss) * float(count[0])
    sent, up = _sent(learner, local, initial), np.zeros((len(local.up), learner.spec.size), np.float32)
    learner.train(sent, examples, rng(0, "measured"), up, None)  # the first time builds what later ones find
    taken: list[float] = []
    while len(taken) < FEWEST or sum(taken) < TAKE_SECS:
        begin = time.perf_counter()
        learner.train(sent, examples, rng(0, "measured"), up, None)
        taken.append(time.perf_counter() - begin)
    return 1000.0 * min(taken) / forwards


def _sent(learner: Learner, local: Local, initial: Vector) -> Sent:
    """What a client's first task brings: the model, and zeros for all else."""
    zeros = learner.spec.zeros()[: learner.spec.trained]
    sent = {name: initial if name == "model" else zeros for name in local.down}
    return {**sent, "personal": zeros} if local.needs_mask else sent

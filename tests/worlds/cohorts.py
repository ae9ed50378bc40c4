"""Six clients of one of three models, trained by whatever engine: what comes back, and what is added."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.core.examples import Facts
from muster.core.randomness import rng
from muster.core.sums import FixedPointSum
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.data.federated import FederatedData
from muster.learn.accumulator import Folding
from muster.learn.device_cohort import DeviceCohort
from muster.learn.numerics import Numerics
from muster.learn.trainer import Trainer
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter

from .rig import NAMES, small
from .toy import FACTS, toy_data

SIZES = (7, 0, 3, 8, 1, 4)
IMAGES, TEXT = Facts("images", (2, 8, 8), 3), Facts("text", (6,), 5)
WORK = Work(epochs=2, batch_size=3)
MODELS = {
    "mlp": (MLP((5,)), Classification(), FACTS),
    "leaf": (LeafCNN(dense=8), Classification(), IMAGES),
    "lstm": (CharLSTM(embed=4, hidden=8, layers=2), NextCharacter(), TEXT),
}
EACH_MODEL = pytest.mark.parametrize(
    ("which", "numerics"),
    [
        ("leaf", {"convolutions": "direct", "gradients": "plain"}),
        ("leaf", {"convolutions": "unfolded"}),
        ("lstm", {}),
    ],
    ids=["grouped convolutions", "unfolded convolutions", "text"],
)
"""A model and how its clients are trained together."""
RULES = {type(small(name).local).__name__: small(name).local for name in NAMES}


def federated(facts):
    """Six clients, one of whom has nothing."""
    if facts is FACTS:
        return toy_data(SIZES)
    draw, count = rng(0, "cohorts there"), sum(SIZES)
    text = draw.integers(0, 5, count + 6).astype(np.uint8)
    x = np.arange(count) if facts is TEXT else draw.normal(size=(count, 2, 8, 8)).astype(np.float32)
    y, offsets = draw.integers(0, facts.num_classes, count), np.r_[0, np.cumsum(SIZES)].astype(np.int64)
    arrays = {"x": x, "y": y, "offsets": offsets, "test_x": x, "test_y": y, "text": text}
    return FederatedData(Path("in-memory"), facts, (), arrays)


def made(device, which, local=SGD(lr=0.1), **numerics):
    asked = replace(Numerics("auto", "auto", device=device, convolutions="auto"), **numerics)
    return DeviceCohort(*MODELS[which], local, WORK, asked)


def run(learner, local, data, chunk=0, rounds=2, clients=(3, 0, 5, 2, 4, 1)):
    """Rounds of all six clients: reports, and sums as numbers."""
    size = len(local.up) * learner.spec.size
    total, kept = FixedPointSum(size, 40), {}
    it = Trainer(learner, data, Folding(Mean(), 8.0, 40, 3, local), total, chunk)
    found = []
    for attempt in range(rounds):
        sent = {"model": learner.initial(attempt)}
        sent |= {name: np.full(learner.spec.trained, 0.01, np.float32) for name in local.down[1:]}
        tasks = rows(TASK, 6, client=np.array(clients), attempt=attempt, ticket=np.arange(6))
        reports, new = it.train(tasks, np.zeros(6, np.int64), {0: sent}, kept, {}, np.zeros(1, np.int64))
        kept |= new
        found.append((reports, total.total / 2.0**40))
    return it, found


def assert_alike(found, wanted, bound=2e-5):
    for (reports, total), (others, other) in zip(found, wanted, strict=True):
        assert np.abs(other).max() > 1e-2
        np.testing.assert_allclose(total, other, atol=bound * np.abs(other).max())
        for name in ("loss", "loss_sq_mean", "norm", "num_steps", "refused", "client", "loss_before"):
            np.testing.assert_allclose(reports[name], others[name], rtol=5 * bound, err_msg=name)

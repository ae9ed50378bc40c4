"""Sharing one model and adding updates as they come equals the plain mode, to the bit, for every algorithm.

The plain mode is how federated averaging is explained: every client has a model of its own, all of them are
kept until the last has trained, and only then are they weighed and added. It lives here and nowhere else.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from muster.core.algorithm import Combine
from muster.core.randomness import rng
from muster.core.state import Limits
from muster.core.store import decode, encode
from muster.core.sums import LIMIT, FixedPointSum
from muster.core.tables import MEASURED, REPORT, rows
from muster.core.work import Work
from muster.learn.spill import Spill
from muster.models.model import Model
from muster.tasks.classification import Classification
from worlds.rig import NAMES, Rig, small
from worlds.toy import FACTS

torch = pytest.importorskip("torch")


@dataclass(frozen=True)
class Normed(Model):
    """A dense layer, BatchNorm, whose statistics are buffers, and scores."""

    def torch(self, facts):
        nn = torch.nn
        layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, facts.num_classes)
        return nn.Sequential(*layers)


def learner_of(local):
    from muster.learn.torch_learner import TorchLearner

    return TorchLearner(Normed(), Classification(), FACTS, local, local.work(Work(epochs=2, batch_size=3)))


@dataclass
class Plain:
    """A crew that keeps a model for each client and folds at the end."""

    trainer: object

    def __post_init__(self):
        folding = self.trainer.folding
        self.local, self.combine, self.seed = folding.local, folding.combine, folding.seed
        self.max_weight, self.scale, self.spill = folding.max_weight, folding.scale, folding.spill
        self.spec, self.data = self.trainer.learner.spec, self.trainer.data
        self.models = []

    def clear(self):
        self.models = []

    def close(self):
        pass

    def evaluate(self, version, params):
        return learner_of(self.local).evaluate(params, self.data.test)

    def measure(self, tasks, sent, kept):
        found = rows(MEASURED, len(tasks), ticket=tasks["ticket"], client=tasks["client"])
        for row, task in zip(found, tasks, strict=True):
            examples, model = self.data.client(int(task["client"])), sent[int(task["version"])]["model"]
            means = learner_of(self.local).evaluate(model, examples)
            row["num_examples"], row["loss"], row["accuracy"] = (
                len(examples),
                means["loss"],
                means["accuracy"],
            )
        return found

    def train(self, tasks, staleness, sent, kept, now):
        made = [self.one(task, late, sent, kept, now) for task, late in zip(tasks, staleness, strict=True)]
        self.models += [(ups, report) for ups, report, _ in made]
        states = {int(r["client"]): encode(s) for _, r, s in made if s and not r["refused"]}
        return np.array([report for _, report, _ in made], REPORT), states

    def one(self, task, late, sent, kept, now):
        client, own = int(task["client"]), self.local.personal(self.spec)
        state = decode(kept[client]) if client in kept else {}
        mine = {k: v for k, v in state.items() if not k.startswith("server/")}
        about = {k[7:]: v for k, v in state.items() if k.startswith("server/")}
        received = {name: vector.copy() for name, vector in sent[int(task["version"])].items()}
        if "personal" in mine:
            scatter(self.spec, received["model"], own, mine.pop("personal"))
        if self.local.needs_mask:
            mask = self.spec.zeros()
            scatter(self.spec, mask, own, 1.0)
            received["personal"] = mask[: self.spec.trained]
        learner, examples = learner_of(self.local), self.data.client(client)
        up = np.zeros((len(self.local.up), self.spec.size), np.float32)
        draw = rng(self.seed, "train", client, int(task["attempt"]))
        done = learner.train(
            received, examples, draw, up, mine if client in kept else None, int(task["steps"])
        )
        lasting = {**mine, **(done.kept or {})}
        if own:
            lasting["personal"] = gather(self.spec, received["model"] + up[0], own)
            for row in up:
                scatter(self.spec, row, own, 0.0)
        trained = self.spec.trained
        look = learner.evaluate(received["model"], examples)["loss"] if self.local.needs_loss else np.nan
        report = rows(
            REPORT,
            1,
            ticket=task["ticket"],
            client=client,
            num_examples=len(examples),
            num_steps=done.num_steps,
            staleness=late,
            loss=done.loss,
            loss_sq_mean=done.loss_sq_mean,
            loss_before=look,
            a_norm=self.local.worth(done.num_steps),
            norm=np.sqrt(np.einsum("p,p->", *[up[0, :trained].astype(float)] * 2)),
        )
        if type(self.combine).shift is not Combine.shift:
            short = {k: v[:trained] if k == "model" else v for k, v in received.items()}
            seen = {k: v[:trained] if k == "model" else v for k, v in now.items()}
            ups = {name: row[:trained] for name, row in zip(self.local.up, up, strict=True)}
            shifted, about = self.combine.shift(ups, short, seen, report[0], about)
            for name, vector in shifted.items():
                up[self.local.up.index(name), :trained] = vector
        lasting |= {f"server/{name}": np.asarray(value) for name, value in about.items()}
        assert np.abs(up).max() <= LIMIT
        if self.spill:
            Spill(Path(self.spill), self.spec.size).write(
                now["tickets"].tolist().index(report["ticket"]), up[0]
            )
        return up, report[0], lasting

    def total(self):
        """All models at once, added as Python's whole numbers."""
        size = len(self.local.up) * self.spec.size
        total = FixedPointSum(size, self.scale)
        for i in range(size):
            summed = 0
            for up, report in self.models:
                weight = float(self.combine.weights(np.array([report]))[0]) / self.max_weight
                summed += round(float(up.reshape(-1)[i]) * (weight * 2.0**self.scale))  # half to even
            total.total[i] = summed
        return total


def gather(spec, vector, names):
    views = spec.views(vector)
    return np.concatenate([views[name].reshape(-1) for name in names])


def scatter(spec, vector, names, values):
    views, at = spec.views(vector), 0
    for name in names:
        size = views[name].size
        part = values if np.isscalar(values) else values[at : at + size].reshape(views[name].shape)
        views[name][...] = part
        at += size


def ended(algorithm, make_crew):
    rig = Rig(algorithm, make_learner=lambda: learner_of(algorithm.local), limits=Limits(rounds=3))
    if make_crew is not None:
        rig.plane._crew = make_crew(rig.plane._crew._trainer)
    rig.run()
    states = {c: rig.plane.store.read(c) for c in range(12)}
    return rig.plane.params.tobytes(), rig.told_records(), states


def with_momentum(algorithm):
    """The same with what SGD can do switched on, where the local rule has it."""
    known = {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 1.0, "mu": 0.1}
    settings = {k: v for k, v in known.items() if hasattr(algorithm.local, k)}
    return algorithm.but(local=replace(algorithm.local, **settings)) if settings else algorithm


@pytest.mark.parametrize("name", NAMES)
def test_one_shared_model_equals_a_model_for_each_client(name):
    algorithm = with_momentum(small(name))
    shared, plain = ended(algorithm, None), ended(algorithm, Plain)
    assert shared[0] == plain[0]  # buffers too
    assert shared[1] == plain[1]
    assert shared[2] == plain[2]

"""Look-ahead: tasks that are out are trained along with those that have been accepted, to the same bits."""

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.state import Limits
from muster.core.tables import TASK, Accept, rows, taken
from muster.core.work import Work
from muster.data.store import prepare
from muster.learn.ahead import Ahead, Seer
from muster.learn.crew import Inline, Recipe
from muster.learn.pool import Pool
from muster.learn.states import Learnt
from muster.models.dense import Logistic
from muster.tasks.classification import Classification
from worlds.rig import Rig, numpy_learner, small
from worlds.toy import FACTS, Toy
from worlds.world import ToyWorld, at_times

SPEC = Logistic().spec(FACTS)
SHARED_KBPS = 4.0


class Seeing(Inline):
    """Has the plane look ahead as far as a pool of two would."""

    together = 4


class Counting(Inline):
    """Trains in cohorts of four, and notes which tickets each call trains."""

    def __init__(self, trainer):
        trainer.chunk = 4
        super().__init__(trainer)
        self.calls = []

    def learn(self, tasks, sent):
        self.calls.append(tasks["ticket"].tolist())
        return super().learn(tasks, sent)


def asgd(**settings):
    return small("asgd", size=1, concurrency=4, **settings)


def run(make_crew, algorithm=None, world=None, **settings):
    rig = Rig(
        algorithm or asgd(),
        world or ToyWorld(),
        make_crew=make_crew,
        make_learner=numpy_learner(),
        limits=Limits(rounds=20),
        **settings,
    )
    return rig.run()


@pytest.mark.parametrize("name", ["asgd", "dcasgd", "fedasync", "fedbuff"])
@pytest.mark.parametrize("max_staleness", [None, 1])
@pytest.mark.parametrize("kbps", [None, SHARED_KBPS], ids=["own links", "shared link"])
def test_law_looking_ahead_changes_no_bit(name, max_staleness, kbps):
    algorithm = small(name, size=1 if name != "fedbuff" else 3, concurrency=5, max_staleness=max_staleness)
    world = ToyWorld(loss=at_times(0.3))
    plain = run(Inline, algorithm, world, kbps=kbps)
    ahead = run(Seeing, algorithm, world, kbps=kbps)
    assert ahead.hash == plain.hash
    assert ahead.told_records() == plain.told_records()
    assert plain.plane.tasks_together <= 3
    if not plain.plane._keeps:
        assert ahead.plane.tasks_together > plain.plane.tasks_together


def test_a_cohort_of_those_in_flight_gives_the_bits_of_one_after_the_other():
    rig = run(Counting)
    tickets = [ticket for call in rig.plane._crew.calls for ticket in call]
    assert len(set(tickets)) == len(tickets)  # nothing is trained twice
    accepted = [c.tickets for _, commands in rig.sim.told for c in commands if isinstance(c, Accept)]
    assert set(tickets) == set(np.concatenate(accepted).tolist())
    assert rig.plane.tasks_together >= 2

    class Single(Counting):
        together = 1

    assert run(Single).hash == rig.hash


def test_nothing_is_trained_beyond_the_last_version():
    rig = run(Counting)
    assert len([t for call in rig.plane._crew.calls for t in call]) == 20 == rig.plane.num_trained


def test_clients_that_keep_something_are_not_looked_ahead_at():
    assert Rig(small("scaffold"), make_crew=Seeing).plane.look_ahead == 0
    assert Rig(small("fedavg"), make_crew=Seeing).plane.look_ahead == 4
    assert Rig(small("fedavg")).plane.look_ahead == 0  # one after another, in this process


class Seer4:
    """Notes what it is asked; an update is its ticket."""

    together = 4

    def learn(self, tasks, sent):
        return [
            Learnt(int(t["version"]), np.full((1, 1), t["ticket"], np.float32), 1, 0.0, 0.0) for t in tasks
        ]

    def fold(self, tasks, staleness, sent, learnt, now):
        return [float(one.up[0, 0]) for one in learnt]


def tasks(*tickets, version=0):
    return rows(TASK, len(tickets), ticket=tickets, client=tickets, version=version)


def test_no_more_wait_than_fit_the_bound(monkeypatch):
    monkeypatch.setattr("muster.learn.ahead.AHEAD_BYTES", 3 * 400)
    ahead, coming = Ahead(Seer4(), 400), tasks(1, 2, 3, 4, 5, 6)
    assert isinstance(Seer4(), Seer) and ahead.reach == 4
    added = ahead.added(tasks(0), coming, {0})
    assert added["ticket"].tolist() == [0, 1, 2, 3]
    ahead.learn(added, {})
    assert ahead.fold(tasks(0), [0], {}, {}) == [0.0]
    assert len(ahead.added(tasks(2), taken(coming, coming["ticket"] > 2), {0})) == 0  # it is known
    assert ahead.fold(tasks(2), [0], {}, {}) == [2.0]
    # 1 and 3 wait: one more may.
    assert ahead.added(tasks(9), coming, {0})["ticket"].tolist() == [9, 2]
    # Version 0 is gone: what was trained of it is forgotten.
    assert ahead.added(tasks(9, version=1), tasks(10, 11, 12, 13, version=1), {1})["ticket"].tolist() == [
        9,
        10,
        11,
        12,
    ]
    assert Ahead(Seer4(), 1201).reach == 0  # not one update may wait


def test_asgd_trains_two_and_more_tasks_a_call_with_several_workers(tmp_path):
    """The same bits as in this process, where each task is a call of its own."""
    stored = prepare(Toy(), 0, tmp_path)
    pools = []

    def pooled(trainer):
        folding = trainer.folding
        recipe = Recipe(
            "numpy", Logistic(), Classification(), SGD(), Work(batch_size=2), folding, str(stored.path)
        )
        pools.append(Pool(recipe, 2, SPEC.size, len(stored.test)))
        return pools[0]

    alone, many = run(Inline), run(pooled)
    many.plane.close()
    assert many.hash == alone.hash
    assert many.told_records() == alone.told_records()
    assert many.plane.tasks_together >= 2

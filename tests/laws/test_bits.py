"""Laws 4, 5, 10 and 13 of docs/design.md, for every algorithm: what may not change a bit."""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from muster.core.algorithm import Pace
from muster.core.part import dumps, loads
from muster.core.randomness import rng
from muster.core.state import Limits
from muster.core.tables import SECOND, TASK, Appetite, rows
from worlds.rig import (
    NAMES,
    Rig,
    numpy_learner,
    plain_command,
    replay,
    resume_run,
    save_run,
    small,
    to_bytes,
)
from worlds.toy import Keeps, Wander
from worlds.world import ToyWorld, at_times, comings_and_goings, keyed

every_algorithm = pytest.mark.parametrize("name", NAMES)
worlds = pytest.mark.parametrize(
    "world",
    [ToyWorld(), ToyWorld(loss=at_times(0.3)), comings_and_goings()],
    ids=["always there", "lossy", "comings and goings"],
)
paces = pytest.mark.parametrize(
    "pace", [{}, {"over_commit": 1.5, "deadline_secs": 20.0, "max_staleness": 1, "min_reports": 2}]
)


SHARED_KBPS = 4.0
"""Tasks of the toy world send 400 bytes, alone in 0.25 to 7.5 s; over 4 kbit/s several slow each other."""


def equal_tasks():
    """They end in one instant, and the next ones begin in it."""
    return ToyWorld(duration=lambda client, attempt: 8 * SECOND)


def keeping():
    return Wander(keeping=True)


def remembering(algorithm):
    """The same with clients that have lasting state, if its own have none."""
    return algorithm if algorithm.local.keeps else algorithm.but(local=Keeps())


def assert_resumed_runs_end_alike(algorithm, world, learner, tmp_path, kbps=None):
    def rig(store):
        return Rig(algorithm, world, make_learner=learner, store=tmp_path / store, kbps=kbps)

    whole, marked, saved = rig("whole").run(), rig("marked"), {}
    assert len(whole.records) >= 7
    for record in marked.sim:
        marked.records.append(record)
        if record.version % 2:
            saved[record.version] = save_run(marked)
        elif record.version - 1 in saved:  # killed here: what came after the checkpoint is lost
            shutil.copytree(tmp_path / "marked", tmp_path / f"{record.version - 1}")
    assert sorted(saved) == [1, 3, 5]
    for version, checkpoint in saved.items():
        resumed = resume_run(rig(f"{version}"), checkpoint)
        resumed.records = marked.records[: version + 1]
        assert_ended_alike(resumed.run(), whole)
    assert_ended_alike(marked, whole)  # saving changes nothing either


def assert_ended_alike(rig, whole):
    assert rig.hash == whole.hash
    assert rig.told_records() == whole.told_records()
    assert rig.sim.ended == whole.sim.ended


@every_algorithm
@worlds
@paces
@pytest.mark.parametrize("learner", ["numpy", "keeping"])
def test_law_4_save_mid_run_and_resume_gives_the_same_bits(name, world, pace, learner, tmp_path):
    algorithm = small(name, **pace)
    if learner == "keeping":
        algorithm, learner = remembering(algorithm), keeping
    else:
        learner = numpy_learner(local=algorithm.local)
    assert_resumed_runs_end_alike(algorithm, world, learner, tmp_path)


@every_algorithm
@pytest.mark.parametrize("world", [comings_and_goings(), equal_tasks()], ids=["comings and goings", "equal"])
def test_law_4_over_a_shared_link(name, world, tmp_path):
    assert_resumed_runs_end_alike(small(name), world, Wander, tmp_path, SHARED_KBPS)


@every_algorithm
@worlds
@paces
def test_law_5_the_log_of_events_replays_to_the_same_model(name, world, pace):
    algorithm = remembering(small(name, **pace))
    first = Rig(algorithm, world, make_learner=keeping).run()
    again = Rig(algorithm, world, make_learner=keeping)
    told = replay(again, to_bytes(first.events))
    assert again.hash == first.hash
    assert [[plain_command(c) for c in step] for step in told] == [
        [plain_command(c) for c in commands] for _, commands in first.sim.told
    ]


@every_algorithm
def test_law_10_an_algorithm_survives_json(name):
    for algorithm in (small(name), small(name, over_commit=1.5, deadline_secs=0.1, max_staleness=3)):
        text = dumps(algorithm)
        assert loads(text) == algorithm
        assert dumps(loads(text)) == text == json.dumps(json.loads(text), sort_keys=True)


@dataclass(frozen=True)
class Cut(Pace):
    """A pace whose shell delivers less than it might: row by row, or at places drawn by key."""

    inner: Pace
    seed: int | None = None
    """None: row by row."""

    def init(self):
        return self.inner.init()

    @property
    def max_accepts(self):
        return self.inner.max_accepts

    @property
    def max_out(self):
        return self.inner.max_out

    def appetite(self, state, tasks):
        allowed = self.inner.appetite(state, tasks)
        if allowed.whole_instant:  # an instant may not be cut
            return allowed
        if self.seed is None:
            return Appetite(1, stop_at_loss=True)
        here = int(tasks["ticket"].sum() + 7 * tasks["arrived"].sum())
        draw = rng(self.seed, "cut", here)
        at_loss = allowed.stop_at_loss or bool(draw.integers(2))
        together = 1 + int(draw.integers(allowed.together))
        return Appetite(int(draw.integers(allowed.num_arrivals)) + 1, at_loss, together=together)

    def plan(self, state, view):
        return self.inner.plan(state, view)


LIMITS = Limits(rounds=6, virtual_ns=4000 * SECOND)


def assert_cutting_changes_nothing(algorithm, world, seed=5, limits=LIMITS, kbps=None):
    whole = Rig(algorithm, world, seed=seed, limits=limits, kbps=kbps).run()
    for cut in (None, 0, 1):
        pace = Cut(algorithm.pace, cut)
        cuts = Rig(algorithm.but(pace=pace), world, seed=seed, limits=limits, kbps=kbps).run()
        assert cuts.commands == whole.commands
        assert cuts.hash == whole.hash
        assert cuts.told_records() == whole.told_records()
        assert cuts.sim.ended == whole.sim.ended
        if cut is None:
            whole_instants = algorithm.pace.appetite(algorithm.pace.init(), rows(TASK, 0)).whole_instant
            assert whole_instants or max(len(events.table) for events in cuts.events) == 1


LOSSES = {"chance": (0.0, 0.2, 0.7, 0.95), "after_ns": (SECOND // 2, SECOND, 2 * SECOND)}
PACES = {
    "over_commit": (1.0, 1.5, 2.5),
    "deadline_secs": (None, 1.0, 2.0, 3.0, 20.0),
    "max_staleness": (None, 0, 2),
    "min_reports": (1, 3),
}


@every_algorithm
@pytest.mark.parametrize("case", range(5))
def test_law_13_cutting_batches_anywhere_changes_nothing(name, case):
    """Settings are drawn by key, for each algorithm its own: they share their paces, so that each pace sees
    many. `spread` 1, 2, 4: tasks take one of so many lengths in whole seconds, so that most instants have
    several rows, and deadlines and losses fall on them."""
    draw = rng(13, name, case)
    loss, pace = ({k: v[draw.integers(len(v))] for k, v in choices.items()} for choices in (LOSSES, PACES))
    spread, seed = (None, 1, 2, 4)[draw.integers(4)], int(draw.integers(4))
    tied = None if spread is None else lambda client, attempt: (1 + (client + attempt) % spread) * SECOND
    world = ToyWorld(duration=tied or keyed(seed, 0.5, 4), loss=at_times(seed=seed, **loss))
    assert_cutting_changes_nothing(small(name, **pace), world, seed)


@every_algorithm
@pytest.mark.parametrize("kbps", [None, SHARED_KBPS], ids=["own links", "shared link"])
@pytest.mark.parametrize("world", [comings_and_goings(), equal_tasks()], ids=["comings and goings", "equal"])
def test_law_13_where_clients_come_and_go_or_are_equal(name, world, kbps):
    assert_cutting_changes_nothing(small(name), world, kbps=kbps)


@every_algorithm
def test_law_13_where_clients_rest_between_their_tasks(name):
    world = ToyWorld(duration=keyed(3, 0.5, 4), loss=at_times(0.2, 3, SECOND))
    limits = Limits(rounds=4, virtual_ns=4000 * SECOND, rest_ns=3 * SECOND)
    assert_cutting_changes_nothing(small(name), world, limits=limits)


class Dwindling(ToyWorld):
    """Three clients report once, and all other tasks are lost, one after another."""

    def _lost_at(self, task):
        client, sent = int(task["client"]), int(task["sent_at"])
        return None if sent == 0 and client % 4 == 0 else sent + 40 * SECOND + client


@every_algorithm
def test_law_13_where_a_run_gives_up_in_the_middle_of_a_round(name):
    """Seven losses after the last arrival, then rounds of ten losses each: with the 200th in a row the
    run gives up, and that is not the last of its round."""
    algorithm = small(name, over_commit=2.5)
    early = lambda client, attempt: (30 if attempt == 0 and client % 4 == 0 else 100) * SECOND  # noqa: E731
    world = Dwindling(duration=early)
    assert_cutting_changes_nothing(algorithm, world, limits=Limits(rounds=6))
    rig = Rig(algorithm, world).run()
    assert rig.sim.ended.why.endswith(("no client reports any more", "too few clients reported"))


def test_batches_are_batches():
    """The law above says something: whole batches do have many rows."""
    world = ToyWorld(duration=lambda client, attempt: SECOND)
    rig = Rig(small("fedavg", cohort=8), world).run()
    assert max(len(events.table) for events in rig.events) == 8
    assert np.unique(rig.events[1].table["now"]).tolist() == [SECOND]

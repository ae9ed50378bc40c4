"""Laws 4, 5, 6, 7, 9, 13 and 14 with a select that asks before it draws, under every kind of pace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from laws.test_bits import SHARED_KBPS, assert_cutting_changes_nothing, assert_resumed_runs_end_alike
from laws.test_control import Guarded, assert_no_busy_or_absent_client_gets_a_task, assert_time_grows
from muster.core.algorithm import Select
from muster.core.state import Limits
from muster.core.tables import SECOND, Kind, Purpose, Train, frozen
from worlds.rig import Rig, numpy_learner, plain_command, replay, small, to_bytes
from worlds.world import ToyWorld, at_times, comings_and_goings, keyed

every_pace = pytest.mark.parametrize("name", ["fedavg", "fedbuff", "fedasync", "ssp", "semi_sync", "esync"])
worlds = pytest.mark.parametrize(
    "world",
    [
        ToyWorld(),
        ToyWorld(loss=at_times(0.4)),
        comings_and_goings(),
        comings_and_goings(seed=1, duration=keyed(1, 20, 200)),
    ],
    ids=["always there", "lossy", "comings and goings", "slow and going"],
)


@dataclass(frozen=True)
class Asks(Select):
    """Asks twice as many as are wanted; those with the largest losses are drawn, then any."""

    def ask(self, state, k, free, rng):
        return free.sample(2 * k, rng)

    def told(self, state, now_ns, measured):
        return {"clients": frozen(measured["client"][np.argsort(-measured["loss"], kind="stable")])}

    def draw(self, state, k, free, rng):
        worst = free.among(state.get("clients", np.zeros(0, np.int64)))[:k]
        others = free.sample(k + len(worst), rng)
        return np.concatenate([worst, others[~np.isin(others, worst)]])[:k]


def asking(name, **pace):
    return small(name, **pace).but(select=Asks())


def num_asked(rig):
    trains = [c.tasks for _, commands in rig.sim.told for c in commands if isinstance(c, Train)]
    return sum(int(np.count_nonzero(tasks["work"] == Purpose.MEASURE)) for tasks in trains)


@every_pace
@worlds
def test_law_4_save_and_resume_while_clients_are_asked(name, world, tmp_path):
    algorithm = asking(name)
    assert_resumed_runs_end_alike(algorithm, world, numpy_learner(local=algorithm.local), tmp_path)


@every_pace
def test_law_4_over_a_shared_link(name, tmp_path):
    algorithm = asking(name)
    learner = numpy_learner(local=algorithm.local)
    assert_resumed_runs_end_alike(algorithm, comings_and_goings(), learner, tmp_path, SHARED_KBPS)


@every_pace
@worlds
def test_laws_5_6_and_7_replay_nobody_busy_inputs_untouched(name, world):
    algorithm = asking(name)
    rig = Rig(algorithm, world, simulation=Guarded).run()
    assert num_asked(rig) >= 1
    assert_no_busy_or_absent_client_gets_a_task(rig)
    again = Rig(algorithm, world)
    told = replay(again, to_bytes(rig.events))
    assert again.hash == rig.hash
    assert [[plain_command(c) for c in step] for step in told] == [
        [plain_command(c) for c in commands] for _, commands in rig.sim.told
    ]


@every_pace
@pytest.mark.parametrize("loss", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("tied", [False, True], ids=["own lengths", "equal lengths"])
def test_law_13_cutting_batches_anywhere_changes_nothing(name, loss, tied):
    alike = lambda client, attempt: (1 + (client + attempt) % 2) * SECOND  # noqa: E731
    world = ToyWorld(duration=alike if tied else keyed(0, 0.5, 4), loss=at_times(loss))
    assert_cutting_changes_nothing(asking(name), world)


@every_pace
def test_law_9_when_all_clients_die_while_they_are_asked_the_run_ends(name):
    for dies_at in (1, 40, 95):
        rig = Rig(asking(name), ToyWorld(dies_at=dies_at * SECOND), limits=Limits(rounds=100)).run()
        assert rig.sim.ended.status == "stalled" and "never has as many" in rig.sim.ended.why
        assert_time_grows(rig)


@every_pace
def test_law_14_when_everybody_is_always_lost_the_run_ends(name):
    rig = Rig(asking(name), ToyWorld(loss=lambda client, attempt: SECOND), limits=Limits(rounds=100)).run()
    assert rig.sim.ended.status == "stalled" and "in a row" in rig.sim.ended.why
    assert_time_grows(rig)


@every_pace
@worlds
def test_what_was_sent_is_accounted_for(name, world):
    """Each task that was sent counted, was lost, late or discarded, or had measured."""
    rig = Rig(asking(name), world, limits=Limits(rounds=8)).run()
    counts = ("accepted", "refused", "measured", "lost", "late", "discarded")
    total = {kind: sum(getattr(r, f"num_{kind}") for r in rig.records) for kind in (*counts, "sent")}
    assert sum(total[kind] for kind in counts) == total["sent"]
    answers = [e for e in rig.events if e.table["kind"][0] == Kind.MEASURED]
    assert 1 <= sum(len(e.measured) for e in answers) <= total["measured"] <= num_asked(rig)
    outcomes = [span.outcome for record in rig.records for span in record.spans]
    assert outcomes.count("measured") == total["measured"]

import gc
import tracemalloc
from collections import Counter
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedavg import Add
from muster.algorithms.fedyogi import Yogi
from muster.core.errors import UserError
from muster.core.state import Limits
from muster.core.store import decode
from muster.core.tables import SECOND, TASK, Refusal, Train, rows
from muster.learn.plane import load_moment, save_moment, waves
from worlds.rig import Rig, numpy_learner, plain, small
from worlds.toy import Fixed, Keeps, Wander, toy_data
from worlds.world import ToyWorld, at_times

FRESH = {0, 1, 2, 3}


def rig(name="fedavg", value=lambda client: 0.25, **parts):
    algorithm = small(name, cohort=12, size=12, concurrency=12).but(**parts)
    return Rig(algorithm, make_learner=lambda: Fixed(value))


def accepted(clients, versions=0, attempts=0):
    return rows(
        TASK, len(clients), ticket=range(len(clients)), client=clients, version=versions, attempt=attempts
    )


def advance(plane, clients, versions=0, staleness=0, keep=FRESH, attempts=0):
    late = np.broadcast_to(np.asarray(staleness, np.int64), len(clients))
    return plane.advance(accepted(clients, versions, attempts), late, keep)


def test_the_mean_is_weighted_by_examples():
    plane = rig(value=lambda client: [1.0, -0.5][client]).plane
    reports = advance(plane, [0, 1])
    assert reports["num_examples"].tolist() == [3, 5]
    assert (plane.params == 1 + (3 * 1 - 5 * 0.5) / 8).all()
    assert plane.version == 1


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_server_that_moves_the_model_to_infinity_ends_the_run_with_the_way_out():
    plane = rig(value=lambda client: 1000.0, server=Add(lr=1e38)).plane
    before = plane.params.copy()
    with pytest.raises(UserError, match=r"version 1: Add moved the model to infinity.*algorithm\.server\.lr"):
        advance(plane, [0, 1])
    assert plane.version == 0
    assert (plane.params == before).all()


def test_stale_updates_weigh_less_and_the_sum_is_divided_by_their_number():
    plane = rig("fedbuff", value=lambda client: 1.0).plane
    advance(plane, [0, 1, 2], staleness=[0, 1, 3])
    np.testing.assert_allclose(plane.params, 1 + (1 + 1 / sqrt(2) + 1 / 2) / 3, rtol=1e-7)


def test_the_server_moves_parameters_and_buffers_are_averaged():
    plane = rig(server=Add(lr=2.0)).plane
    assert plane.spec.trained == 32 < plane.spec.size
    advance(plane, [0, 1])
    assert (plane.params[:32] == 1.5).all()
    assert (plane.params[32:] == 1.25).all()


def test_an_adaptive_server_has_no_state_for_buffers():
    """Yogi's first step by hand, for a delta of 0.5 in every coordinate."""
    plane = rig(server=Yogi(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3), value=lambda client: 0.5).plane
    advance(plane, [0, 1])
    m, v = 0.1 * 0.5, 1e-6 + 0.01 * 0.25
    np.testing.assert_allclose(plane.params[:32], 1 + 0.1 * m / (sqrt(v) + 1e-3), rtol=1e-6)
    assert (plane.params[32:] == 1.5).all()
    assert {name: array.shape for name, array in plane.moment.opt.items()} == {"m": (32,), "v": (32,)}


BAD = {3: np.nan, 4: 1025.0, 5: -np.inf}


@pytest.mark.parametrize("name", ["fedavg", "fedbuff", "fedyogi"])
def test_refused_updates_weigh_nothing_and_are_reported(name):
    value = lambda client: BAD.get(client, client / 8)  # noqa: E731
    one, other = rig(name, value).plane, rig(name, value).plane
    reports = advance(one, [0, 3, 1, 4, 5, 2])
    advance(other, [0, 1, 2])
    assert one.params.tobytes() == other.params.tobytes()
    no = Refusal.NONE
    expected = [no, Refusal.NON_FINITE, no, Refusal.TOO_LARGE, Refusal.NON_FINITE, no]
    assert reports["refused"].tolist() == expected
    assert reports["client"].tolist() == [0, 3, 1, 4, 5, 2]


@pytest.mark.parametrize("name", ["fedavg", "fedbuff", "fedyogi"])
def test_if_all_are_refused_the_version_advances_with_the_model_unchanged(name):
    plane = rig(name, lambda client: BAD.get(client, 0.25)).plane
    advance(plane, [0, 1])
    before = plane.moment
    reports = advance(plane, [3, 4, 5], versions=1)
    assert plane.version == 2
    assert plane.params.tobytes() == before.params.tobytes()
    assert {k: v.tobytes() for k, v in plane.moment.opt.items()} == {
        k: v.tobytes() for k, v in before.opt.items()
    }
    assert (reports["refused"] != 0).all()
    advance(plane, [0], versions=2)
    assert plane.version == 3 and plane.params.tobytes() != before.params.tobytes()


def test_a_run_counts_refused_updates_and_goes_on():
    rig = Rig(small("fedavg", cohort=12), make_learner=lambda: Fixed(lambda c: np.nan if c < 5 else 0.5))
    rig.run()
    assert [(r.num_accepted, r.num_refused) for r in rig.records[1:]] == [(7, 5)] * 6
    assert sorted(rig.records[1].clients) == [5, 6, 7, 8, 9, 10, 11]
    assert (rig.plane.params == 1 + 6 * 0.5).all()


def test_each_task_trains_from_the_model_it_was_sent():
    plane = rig("fedbuff").plane
    advance(plane, [0, 1])
    advance(plane, [2, 3], versions=[0, 1], staleness=[1, 0])
    learner = plane._crew._trainer.learner
    # those with more examples first
    assert learner.calls == [(1, 1.0), (0, 1.0), (3, 1.25), (2, 1.0)]


def test_snapshots_of_versions_that_no_task_refers_to_are_dropped():
    plane = rig("fedbuff").plane
    advance(plane, [0], keep={0})
    assert sorted(plane.moment.snapshots) == [0, 1]
    advance(plane, [1], versions=0, staleness=1, keep={1})
    assert sorted(plane.moment.snapshots) == [1, 2]
    advance(plane, [2], versions=1, staleness=1, keep=set())
    assert sorted(plane.moment.snapshots) == [3]
    assert plane.moment.snapshots[3]["model"] is plane.params


def test_snapshots_in_a_run_are_those_that_tasks_out_refer_to():
    class Looks(Rig):
        def run(self):
            for record in self.sim:
                self.records.append(record)
                if self.sim.ended is None:
                    out = set(self.sim.state.tasks["version"].tolist())
                    assert set(self.plane.moment.snapshots) == {record.version} | out
                    most.append(len(out))
            return self

    most = []
    slow = ToyWorld(duration=lambda client, attempt: (90 if client == 0 else 1) * SECOND)
    rig = Looks(small("fedbuff"), slow, limits=Limits(rounds=40)).run()
    assert rig.records[-1].version == 40
    assert 3 <= max(most) <= 5


def test_a_moment_is_never_written_to():
    plane = Rig(small("fedyogi", cohort=12), make_learner=Wander).plane
    for version in range(3):
        moment = plane.moment
        arrays = [moment.params, *(s["model"] for s in moment.snapshots.values()), *moment.opt.values()]
        for array in arrays:
            array.flags.writeable = False
        before = [array.tobytes() for array in arrays]
        advance(plane, [0, 1, 2], versions=version)
        assert [array.tobytes() for array in arrays] == before


def test_a_moment_goes_through_a_checkpoint():
    plane = Rig(small("fedyogi", cohort=12), make_learner=Wander).plane
    advance(plane, [0, 1], keep={0})
    moment = plane.moment
    again = load_moment(*save_moment(moment))
    assert again.version == 1 and sorted(again.snapshots) == [0, 1]
    assert again.params.tobytes() == moment.params.tobytes()
    assert again.snapshots[0]["model"].tobytes() == moment.snapshots[0]["model"].tobytes()
    assert {k: v.tobytes() for k, v in again.opt.items()} == {k: v.tobytes() for k, v in moment.opt.items()}


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 12))
@settings(deadline=None, derandomize=True, database=None)
def test_waves_keep_each_clients_order_and_no_client_is_twice_in_one(clients, size):
    ids = np.array(clients, np.int64)
    groups = [wave.tolist() for wave in waves(ids, size)]
    assert sorted(i for group in groups for i in group) == list(range(len(clients)))
    assert all(len({clients[i] for i in group}) == len(group) for group in groups)
    assert all(1 <= len(group) <= size for group in groups)
    if size >= 5:  # there are five clients
        assert len(groups) == max(Counter(clients).values(), default=0)
    for client in set(clients):
        order = [i for group in groups for i in group if clients[i] == client]
        assert order == sorted(order)


def keeping(name="fedavg", world=None, **pace):
    algorithm = small(name, **pace).but(local=Keeps())
    return Rig(algorithm, world or ToyWorld(), make_learner=lambda: Wander(keeping=True))


def test_a_client_twice_in_one_version_sees_what_it_kept_the_first_time():
    rig = keeping(cohort=12)
    advance(rig.plane, [4, 2, 4, 4], attempts=[0, 0, 1, 2])
    assert sorted(rig.plane._crew._trainer.learner.seen) == [(2, 0), (4, 0), (4, 1), (4, 2)]
    assert decode(rig.plane.store.read(4))["num_tasks"] == 3
    assert rig.plane.store.read(0) is None


def remembered(rig):
    """Client -> what it remembered in each of its tasks that were trained."""
    found: dict[int, list[int]] = {}
    for client, num_tasks in rig.plane._crew._trainer.learner.seen:
        found.setdefault(client, []).append(num_tasks)
    return found


@pytest.mark.parametrize(
    ("name", "pace"),
    [
        ("fedavg", {"over_commit": 1.5}),  # discarded as late
        ("fedavg", {"min_reports": 4, "deadline_secs": 20.0}),  # discarded with a failed round
        ("fedbuff", {"max_staleness": 0}),  # discarded as stale
    ],
)
def test_a_client_whose_task_was_discarded_keeps_its_old_state(name, pace):
    rig = keeping(name, ToyWorld(loss=at_times(0.1)), **pace)
    rig.run()
    sent = Counter(
        int(client)
        for _, commands in rig.sim.told
        for command in commands
        if isinstance(command, Train)
        for client in command.tasks["client"]
    )
    seen = remembered(rig)
    for client, numbers in seen.items():
        assert numbers == list(range(len(numbers)))  # only what was accepted is remembered
        assert decode(rig.plane.store.read(client))["num_tasks"] == len(numbers)
    assert sum(sent.values()) > sum(map(len, seen.values())) > 0
    assert any(0 < len(seen.get(client, [])) < sent[client] for client in sent)
    never = set(range(12)) - set(seen)
    assert all(rig.plane.store.read(client) is None for client in never)


def test_a_refused_update_keeps_the_old_state():
    class Sometimes(Wander):
        def train(self, sent, examples, rng, up, kept, steps=0):
            trained = super().train(sent, examples, rng, up, kept)
            if len(self.seen) == 2:
                up[0, 0] = np.nan
            return trained

    rig = Rig(small("fedavg", cohort=12).but(local=Keeps()), make_learner=lambda: Sometimes(keeping=True))
    for attempt in range(3):
        advance(rig.plane, [6], versions=attempt, attempts=attempt)
    assert remembered(rig) == {6: [0, 1, 1]}
    assert decode(rig.plane.store.read(6))["num_tasks"] == 2


def test_one_client_that_works_twice_within_a_version_of_fedbuff_sends_two_different_updates():
    """One client alone, softmax regression on real mini-batches: the second task is another shuffle."""
    deltas = []

    def make():
        learner = numpy_learner()()
        train = learner.train

        def noting(sent, examples, rng, up, kept, steps):
            trained = train(sent, examples, rng, up, kept, steps)
            deltas.append((sent["model"].tobytes(), up.tobytes()))
            return trained

        learner.train = noting
        return learner

    algorithm = plain(small("fedbuff", size=2, concurrency=1))
    rig = Rig(algorithm, ToyWorld(1), toy_data([9]), make, limits=Limits(rounds=1)).run()
    assert rig.records[1].clients == (0, 0)
    (sent_first, first), (sent_second, second) = deltas
    assert sent_first == sent_second
    assert first != second


class Frugal(Fixed):
    """Keeps a state as large as the model."""

    keeping = False

    def train(self, sent, examples, rng, up, kept, steps=0):
        trained = super().train(sent, examples, rng, up, kept)
        if not self.keeping:
            return trained
        return type(trained)(1, 1.0, 1.0, {"c": np.array(up[0])})


class Hoarding(Frugal):
    keeping = True


@pytest.mark.parametrize("learner", [Frugal, Hoarding])
def test_memory_does_not_grow_with_the_number_of_participants(learner):
    """Peak of all that is allocated while a version is made, with a model of 200 kB."""
    algorithm = small("fedavg").but(local=Keeps())
    big = Rig(
        algorithm.but(pace=type(algorithm.pace)(cohort=400)),
        ToyWorld(400),
        toy_data([2] * 400),
        lambda: learner(size=50_000),
    )
    peaks = []
    for version, count in enumerate([400, 400, 20, 100, 400]):  # the first two: what is kept is there
        gc.collect()
        tracemalloc.start()
        advance(big.plane, range(count), versions=version, keep=set())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    few, some, many = peaks[2:]
    # rows of tables, an index: less than a kilobyte for each of 300 or 380 more participants
    assert many < some + 300_000
    assert many < few + 380_000 or learner.keeping  # of what is kept, up to 64 are in memory at once

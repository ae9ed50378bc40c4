import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.algorithms.fedbuff import StaleMean
from muster.core.errors import TrainingError, UserError
from muster.core.store import decode
from muster.core.sums import FixedPointSum
from muster.core.tables import TASK, Refusal, rows
from muster.learn.accumulator import Folding
from muster.learn.gate import extremes, judged
from muster.learn.states import stacked, worths
from muster.learn.trainer import Trainer
from worlds.toy import SIZES, Fixed, Wander, toy_data

SCALE = 40


def trainer(learner, combine=None, max_weight=9.0, seed=3):
    total = FixedPointSum(learner.spec.size, SCALE)
    return Trainer(learner, toy_data(), Folding(combine or Mean(), max_weight, SCALE, seed, SGD()), total)


def task(client, attempt=0, ticket=7):
    return rows(TASK, 1, client=client, attempt=attempt, ticket=ticket)[0]


def train(it, task, late, kept=None):
    """A report and what is kept, of one task of version 0."""
    sent, client = {0: {"model": np.ones(it.learner.spec.size, np.float32)}}, int(task["client"])
    before = {} if kept is None else {client: kept}
    reports, new = it.train(np.asarray(task).reshape(1), np.array([late]), sent, before, {}, np.zeros(1, int))
    return reports[0], new.get(client)


@pytest.mark.parametrize(
    ("value", "weight", "expected"),
    [
        (0.0, 0.0, Refusal.NONE),
        (1024.0, 1.0, Refusal.NONE),
        (-1024.0, 0.5, Refusal.NONE),
        (np.nextafter(np.float32(1024), np.float32(2000)), 1.0, Refusal.TOO_LARGE),
        (-1025.0, 1.0, Refusal.TOO_LARGE),
        (np.nan, 1.0, Refusal.NON_FINITE),
        (np.inf, 1.0, Refusal.NON_FINITE),
        (-np.inf, 1.0, Refusal.NON_FINITE),
        (1.0, np.nextafter(1, 2), Refusal.BAD_WEIGHT),
        (1.0, -1e-9, Refusal.BAD_WEIGHT),
        (1.0, np.nan, Refusal.BAD_WEIGHT),
        (1.0, np.inf, Refusal.BAD_WEIGHT),
    ],
)
def test_gate(value, weight, expected):
    up = np.zeros((3, 1, 40), np.float32)
    up[1, 0, 17] = value
    largest = extremes(up[:, 0])
    refused = judged(largest, np.array([0.5, weight, 1.0]))
    assert refused.tolist() == [Refusal.NONE, expected, Refusal.NONE]
    assert np.array_equal(largest, [0, abs(value), 0], equal_nan=True)


def test_a_task_is_weighed_added_and_reported():
    it = trainer(Fixed(lambda client: 0.5))
    report, kept = train(it, task(5), 2)
    assert kept is None
    assert np.isnan(report["loss_before"]) and report["norm"] == pytest.approx(np.sqrt(32 * 0.25))
    told = {name: report[name].item() for name in report.dtype.names if name not in ("loss_before", "norm")}
    assert told == {
        "ticket": 7,
        "client": 5,
        "num_examples": SIZES[5],
        "num_steps": 1,
        "staleness": 2,
        "loss": 6.0,
        "loss_sq_mean": 36.0,
        "refused": 0,
        "a_norm": 1.0,
        "secs": 0.0,
        "took_secs": 0.0,
    }
    # the weight of the largest client, 9 of 9, is 1: half a unit of 2^40
    assert (it.total.total == 2**39).all()
    train(it, task(0), 0)  # 3 of 9 examples
    assert (it.total.total == 2**39 + round(2**39 / 3)).all()


def test_staleness_reaches_the_weight():
    it = trainer(Fixed(lambda client: 1.0), StaleMean(), max_weight=1.0)
    train(it, task(0), 3)
    assert (it.total.total == 2**39).all()  # 1 / sqrt(1 + 3)


@pytest.mark.parametrize(
    ("value", "refused"),
    [(np.nan, Refusal.NON_FINITE), (np.inf, Refusal.NON_FINITE), (2000.0, Refusal.TOO_LARGE)],
)
def test_a_refused_update_adds_nothing_and_keeps_nothing(value, refused):
    class Wild(Wander):
        def train(self, sent, examples, rng, up, kept, steps=0):
            trained = super().train(sent, examples, rng, up, kept)
            up[0, 3] = value
            return trained

    it = trainer(Wild(keeping=True))
    report, kept = train(it, task(5), 0)
    assert report["refused"] == refused
    assert kept is None and not it.total.total.any()


def test_a_weight_beyond_the_largest_is_refused():
    it = trainer(Fixed(), max_weight=4.0)
    assert train(it, task(0), 0)[0]["refused"] == Refusal.NONE
    before = it.total.total.copy()
    assert train(it, task(5), 0)[0]["refused"] == Refusal.BAD_WEIGHT
    assert np.array_equal(it.total.total, before)


def test_randomness_is_keyed_by_seed_client_and_attempt():
    def delta(client, attempt, seed=3, ticket=7):
        it = trainer(Wander(), seed=seed)
        train(it, task(client, attempt, ticket), 0)
        return it.up[0].tobytes()

    assert delta(4, 0) == delta(4, 0, ticket=99)
    assert len({delta(4, 0), delta(4, 1), delta(5, 0), delta(4, 0, seed=4)}) == 4


def test_what_was_trained_before_leaves_no_trace():
    alone, after = trainer(Wander()), trainer(Wander())
    train(after, task(1), 0)
    for it in (alone, after):
        train(it, task(2), 0)
    assert np.array_equal(alone.up, after.up)


def test_what_a_client_keeps_comes_back_encoded():
    it = trainer(Wander(keeping=True))
    _, first = train(it, task(2), 0)
    _, second = train(it, task(2, 1), 0, first)
    assert (decode(first)["num_tasks"], decode(second)["num_tasks"]) == (1, 2)
    assert np.array_equal(decode(second)["last"], it.up[0, 0])


class Failing(Fixed):
    error = ValueError("no such thing")

    def train(self, sent, examples, rng, up, kept, steps=0):
        raise self.error


def test_an_exception_names_client_and_task():
    it = trainer(Failing())
    with pytest.raises(TrainingError) as caught:
        train(it, task(5, ticket=41), 0)
    text = "training failed at client 5, task 41, 9 examples: ValueError: no such thing"
    assert str(caught.value) == text
    assert caught.value.__cause__ is Failing.error


def test_a_users_mistake_goes_through_as_it_is():
    class Mistaken(Failing):
        error = UserError("give another number")

    it = trainer(Mistaken())
    with pytest.raises(UserError, match=r"^give another number$"):
        train(it, task(5), 0)


def test_exit_in_a_users_training_is_a_failure_not_the_end_of_the_run():
    class Leaving(Failing):
        error = SystemExit(0)

    it = trainer(Leaving())
    with pytest.raises(TrainingError, match=r"client 5, task 7, .*: SystemExit: 0$"):
        train(it, task(5), 0)


def test_state_that_cannot_be_kept_names_client_and_field():
    class Odd(Wander):
        def train(self, sent, examples, rng, up, kept, steps=0):
            trained = super().train(sent, examples, rng, up, kept)
            trained.kept["last"] = object()
            return trained

    it = trainer(Odd(keeping=True))
    with pytest.raises(TrainingError, match=r"client 2, .*'last' is a object"):
        train(it, task(2), 0)


def test_what_all_clients_were_sent_is_not_copied_for_each():
    shared, own = np.ones(4, np.float32), [np.full(4, i, np.float32) for i in range(3)]
    found = stacked([{"model": mine, "personal": shared} for mine in own])
    assert found["model"].tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert found["personal"].shape == (3, 4) and np.shares_memory(found["personal"], shared)
    assert found["personal"].strides[0] == 0


def test_what_steps_are_worth_is_asked_once_for_each_number():
    local, counts = SGD(momentum=0.9), np.array([3, 1, 3, 0, 1])
    assert worths(local, counts).tolist() == [local.worth(count) for count in counts.tolist()]

"""How much a task trains: counts by hand, and the counts against what `batches` really yields."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import FieldError
from muster.core.randomness import rng
from muster.core.work import Steps, Work

steady = settings(deadline=None, derandomize=True, database=None)


def column(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("work", "examples", "steps", "trained"),
    [
        # 45 examples in batches of 20: 20, 20, 5.
        (Work(epochs=1, batch_size=20), 45, 3, 45),
        (Work(epochs=2, batch_size=20), 45, 6, 90),
        (Work(epochs=1, batch_size=20), 40, 2, 40),
        (Work(steps=1, batch_size=20), 45, 1, 20),
        (Work(steps=3, batch_size=20), 45, 3, 45),
        # Into the second epoch: 20 + 20 + 5, then 20.
        (Work(steps=4, batch_size=20), 45, 4, 65),
        (Work(steps=6, batch_size=20), 45, 6, 90),
        # One full batch a step.
        (Work(epochs=2, batch_size=0), 45, 2, 90),
        (Work(steps=3, batch_size=0), 45, 3, 135),
        # Fewer examples than a batch, one example, none.
        (Work(epochs=1, batch_size=20), 7, 1, 7),
        (Work(steps=5, batch_size=20), 7, 5, 35),
        (Work(epochs=3, batch_size=20), 1, 3, 3),
        (Work(epochs=3, batch_size=20), 0, 0, 0),
        (Work(steps=5, batch_size=20), 0, 0, 0),
        (Work(steps=5, batch_size=0), 0, 0, 0),
        (Work(epochs=2, batch_size=1), 3, 6, 6),
    ],
)
def test_steps_and_examples_by_hand(work, examples, steps, trained):
    assert work.num_steps(column(examples)).tolist() == [steps]
    assert work.num_trained(column(examples)).tolist() == [trained]
    batches = list(work.batches(examples, rng(0, "order")))
    assert len(batches) == steps
    assert sum(map(len, batches)) == trained


@steady
@given(
    work=st.builds(
        Work,
        epochs=st.integers(1, 4),
        steps=st.none() | st.integers(1, 40),
        batch_size=st.integers(0, 12),
    ),
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_the_counts_are_what_the_batches_yield(work, sizes, seed):
    steps, trained = work.num_steps(column(*sizes)), work.num_trained(column(*sizes))
    for i, size in enumerate(sizes):
        batches = list(work.batches(size, rng(seed, "order", i)))
        assert [len(batches), sum(map(len, batches))] == [steps[i], trained[i]]
        per_epoch = int(work.batches_per_epoch(column(size))[0])
        for start in range(0, len(batches), max(per_epoch, 1)):
            epoch = np.concatenate(batches[start : start + per_epoch])
            assert len(np.unique(epoch)) == len(epoch), "an epoch sees no example twice"
            if start + per_epoch <= len(batches):
                assert sorted(epoch) == list(range(size)), "a whole epoch sees them all"


def test_every_epoch_is_shuffled_anew_and_repeats_by_seed():
    work = Work(epochs=2, batch_size=0)
    one, two = work.batches(100, rng(1, "order"))
    assert one.tolist() != two.tolist() != list(range(100))
    again = list(work.batches(100, rng(1, "order")))
    assert [one.tolist(), two.tolist()] == [b.tolist() for b in again]


@pytest.mark.parametrize(
    "field", [{"epochs": 0}, {"epochs": 1.5}, {"steps": 0}, {"batch_size": -1}, {"epochs": True}]
)
def test_what_cannot_be_trained_is_refused(field):
    with pytest.raises(FieldError, match="must be an integer"):
        Work(**field)


def test_steps_that_the_task_asks_for_go_before_the_sections_own():
    counts = np.array([5, 5, 0, 30])
    for work in (Work(epochs=2, batch_size=10), Work(steps=4, batch_size=10)):
        assert work.num_steps(counts, np.array([3, 0, 3, 7])).tolist() == [3, work.num_steps(counts)[1], 0, 7]
    # batches of 10 out of 30: 7 steps are two passes and one batch
    assert Work(batch_size=10).num_trained(np.array([30]), np.array([7])).tolist() == [70]
    batches = list(Work(batch_size=10).batches(30, np.random.default_rng(0), 7))
    assert [len(batch) for batch in batches] == [10] * 7
    assert sorted(np.concatenate(batches[3:6]).tolist()) == list(range(30))


@pytest.mark.parametrize("num_steps", [None, 7])
def test_steps_that_are_asked_for_are_the_first_of_a_task_of_as_many(num_steps):
    work, asked = Work(batch_size=3), []

    def another(made):
        asked.append(made)
        return made < 5

    plan = work.plan(8, np.random.default_rng(1), Steps(num_steps, another))
    once, twice = [b.tolist() for b in plan], [b.tolist() for b in plan]
    whole = [b.tolist() for b in work.batches(8, np.random.default_rng(1), 7)]
    assert once == twice == whole[:5]
    assert len(plan) == 5
    assert asked == [0, 1, 2, 3, 4, 5]  # not again when the batches are gone through again

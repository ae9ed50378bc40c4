"""The server's state: the tally against a plain counter, and saving to the bit."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from muster.algorithms.fedavg import Uniform
from muster.algorithms.fedbuff import fedbuff
from muster.core.errors import UserError
from muster.core.population import Population
from muster.core.state import Limits, ServerState, Tally, check_kept, initial_state, load_state, save_state
from muster.core.tables import TASK, frozen, rows

steady = settings(deadline=None, derandomize=True, database=None)


def ids(values):
    return np.array(values, np.int64)


@steady
@given(
    st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), max_size=12),
    st.lists(st.integers(0, 9), unique=True),
    st.integers(0, 12),
)
def test_a_tally_counts_like_a_counter(additions, asked, merge_at):
    counter, zero = Counter(), frozen(np.zeros(10, np.int32))
    with patch.object(Tally, "MERGE_AT", merge_at):
        tally = Tally(zero, ids([]))
        for clients in additions:
            before, counted = tally, tally.counts().tolist()
            tally = tally.add(ids(clients))
            counter.update(clients)
            assert before.counts().tolist() == counted, "the old one stays as it is"
            assert len(tally.recent) <= merge_at
    assert tally.counts().tolist() == [counter[c] for c in range(10)]
    assert tally.of(ids(asked)).tolist() == [counter[c] for c in asked]
    assert tally.of(ids(asked)).dtype == np.int32


def test_a_tally_of_many_clients_is_merged_now_and_then():
    tally = Tally(frozen(np.zeros(5000, np.int32)), ids([]))
    tally = tally.add(np.arange(4096))
    assert (len(tally.recent), tally.base.sum()) == (4096, 0)
    tally = tally.add(ids([7]))
    assert (len(tally.recent), tally.base.sum()) == (0, 4097)
    assert tally.of(ids([8, 7, 4999])).tolist() == [1, 2, 0]
    assert not tally.base.flags.writeable


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ({"seen": (1, 2)}, "has 'seen': tuple"),
        ({"seen": {1, 2}}, "has 'seen': set"),
        ({"mean": np.float64(2.0)}, "has 'mean': float64"),
        ({"names": np.array(["a"])}, "has 'names': ndarray"),
        ({"deep": {"a": [{3: 4}]}}, "has 'deep': dict"),
        ({4: 1}, "has 4: int"),
        ([1], "is list"),
    ],
)
def test_a_state_that_a_checkpoint_would_not_bring_back_is_refused(kept, found):
    with pytest.raises(UserError, match=f"^the state of Mine {found}"):
        check_kept("Mine", kept)


def test_what_a_checkpoint_brings_back_is_fine():
    kept = {"a": np.zeros(3), "b": 1, "c": 0.5, "d": "x", "e": None, "f": True, "g": [1, {"h": [2.0]}]}
    check_kept("Mine", kept)


@dataclass(frozen=True)
class Forgetful(Uniform):
    """Begins with a set."""

    def init(self, population):
        return {"seen": set()}


def test_a_parts_state_is_looked_at_before_the_run_begins():
    ones = np.ones(7, np.float32)
    population = Population(np.ones(7, np.int32), ones, ones, ones)
    with pytest.raises(UserError, match="the state of Forgetful has 'seen': set, which a"):
        initial_state(fedbuff().but(select=Forgetful()), population, Limits(rounds=1))


def test_the_first_state():
    ones = np.ones(7, np.float32)
    population = Population(np.ones(7, np.int32), ones, ones, ones)
    state = initial_state(fedbuff(), population, Limits(rounds=4))
    assert (state.now_ns, state.version, state.next_ticket, state.timer) == (0, 0, 0, -1)
    assert len(state.tasks) == 0 and not state.tasks.flags.writeable
    assert state.tally.counts().tolist() == [0] * 7
    assert (state.pace, state.select, state.limits.rounds) == ({"buffered": 0}, {}, 4)


TIMES = st.none() | st.integers(0, 2**62)
COUNTS = st.integers(0, 2**40)


@st.composite
def states(draw):
    count = draw(st.integers(0, 5))
    tasks = rows(
        TASK,
        count,
        ticket=sorted(draw(st.lists(COUNTS, min_size=count, max_size=count, unique=True))),
        client=draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)),
        version=draw(st.lists(COUNTS, min_size=count, max_size=count)),
        sent_at=draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count)),
        attempt=draw(st.lists(st.integers(0, 2**31 - 1), min_size=count, max_size=count)),
        arrived=draw(st.lists(st.booleans(), min_size=count, max_size=count)),
    )
    part = st.dictionaries(
        st.sampled_from(["utility", "epsilon", "a.b"]),
        st.floats(allow_nan=False) | st.text() | st.lists(st.floats(width=32), max_size=4).map(np.array),
    )
    return ServerState(
        tasks=frozen(tasks),
        tally=Tally(frozen(np.arange(10, dtype=np.int32)), ids(draw(st.lists(st.integers(0, 9))))),
        select=draw(part),
        pace=draw(part),
        limits=Limits(draw(st.none() | COUNTS), draw(TIMES), draw(st.integers(1, 9))),
        now_ns=draw(st.integers(0, 2**62)),
        version=draw(COUNTS),
        next_ticket=draw(COUNTS),
        num_draws=draw(COUNTS),
        timer=draw(st.integers(-1, 2**40)),
        wake_ns=draw(TIMES),
        deadline_ns=draw(TIMES),
        retry_ns=draw(TIMES),
        hold_ns=draw(TIMES),
        num_failed=draw(COUNTS),
        num_lost=draw(COUNTS),
        peak_out=draw(COUNTS),
        num_stalled=draw(COUNTS),
        stopped=draw(st.booleans()),
    )


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@steady
@given(states())
def test_a_state_comes_back_to_the_bit(state):
    scalars, columns = save_state(state)
    again = load_state(json.loads(json.dumps(scalars)), load(save(columns)))
    for name in ServerState.__dataclass_fields__:
        a, b = getattr(state, name), getattr(again, name)
        if name == "tally":
            a, b = a.counts(), b.counts()
        assert same(a, b), name
    assert not again.tasks.flags.writeable and not again.tally.base.flags.writeable
    for part in (again.select, again.pace):
        assert not any(v.flags.writeable for v in part.values() if isinstance(v, np.ndarray))


@pytest.mark.parametrize("name", list(ServerState.__dataclass_fields__))
def test_no_field_is_forgotten(name):
    ones = np.ones(3, np.float32)
    population = Population(np.ones(3, np.int32), ones, ones, ones)
    scalars, columns = save_state(initial_state(fedbuff(), population, Limits()))
    assert name in scalars or any(key.split(".")[0] == name for key in columns)

"""Laws 1, 2, 3, 8 and 11 of docs/design.md, for every algorithm: what the updates become."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.part import dumps
from muster.core.state import Limits
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.data.store import prepare
from muster.learn.crew import Inline, Recipe
from muster.learn.numpy_learner import NumpyLearner
from muster.learn.pool import Pool
from muster.models.dense import Logistic
from muster.tasks.classification import Classification
from worlds.rig import NAMES, Rig, numpy_learner, plain, small
from worlds.toy import FACTS, Fixed, Toy, Wander, toy_data
from worlds.world import ToyWorld

every_algorithm = pytest.mark.parametrize("name", NAMES)
few = settings(deadline=None, derandomize=True, database=None, max_examples=6)


def central_sgd_step(params, data, lr):
    """One step of gradient descent on softmax regression over all examples, in float64."""
    weight, bias = params["dense0.weight"].astype(float), params["dense0.bias"].astype(float)
    scores = data.x.astype(float) @ weight.T + bias
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    slope = (shares - np.eye(FACTS.num_classes)[data.y]) / len(data)
    return weight - lr * slope.T @ data.x, bias - lr * slope.sum(0)


def skip_what_is_no_mean(algorithm):
    if not algorithm.combine.averages:
        pytest.skip(f"{algorithm.combine.part_name()} changes the length of updates, as its file says")


def skip_what_takes_other_steps(algorithm):
    if algorithm.local.repeats > 1:
        pytest.skip(f"{algorithm.local.part_name()} takes its steps with a model of the client's own")


@every_algorithm
def test_law_1_one_client_with_all_data_and_one_step_is_central_sgd(name):
    """An adaptive server is swapped for one that adds the delta: the law is of the other four parts."""
    algorithm = plain(small(name, cohort=1, size=1, concurrency=1, workers=1, period_secs=1e-6))
    skip_what_is_no_mean(algorithm)
    skip_what_takes_other_steps(algorithm)
    learner = numpy_learner(Work(steps=1, batch_size=0), algorithm.local)
    rig = Rig(algorithm, ToyWorld(1), toy_data([30]), learner, limits=Limits(rounds=1))
    before = {k: v.copy() for k, v in rig.plane.spec.views(rig.plane.params).items()}
    weight, bias = central_sgd_step(before, rig.data.client(0), lr=0.1)
    after = rig.run().plane.spec.views(rig.plane.params)
    np.testing.assert_allclose(after["dense0.weight"], weight, atol=1e-6)
    np.testing.assert_allclose(after["dense0.bias"], bias, atol=1e-6)
    assert np.abs(after["dense0.weight"] - before["dense0.weight"]).max() > 1e-3


@every_algorithm
@given(update=st.floats(-1000, 1000, width=32).filter(lambda value: abs(value) > 1e-6))
@few
def test_law_2_identical_fresh_updates_combine_to_that_update(name, update):
    skip_what_is_no_mean(small(name))
    rig = Rig(plain(small(name)), make_learner=lambda: Fixed(lambda client: update), limits=Limits(rounds=1))
    rig.run()
    assert 1 <= len(set(rig.records[1].clients)) <= rig.algorithm.pace.max_accepts
    # the sum is exact to 2^-48 of an update, so that rounding to float32 gives the update itself
    shared = np.ones(rig.plane.spec.size, bool)
    shared[rig.plane._crew._trainer.personal] = False
    assert (rig.plane.params[shared] == np.float32(1) + np.float32(update)).all()
    assert (rig.plane.params[~shared] == 1).all()


def taken(clients, versions):
    """TASK rows of accepted tasks, in order of their arrival."""
    count = len(clients)
    return rows(TASK, count, ticket=range(count), client=clients, version=versions, attempt=0)


@every_algorithm
@given(order=st.permutations(range(8)), late=st.lists(st.integers(0, 2), min_size=8, max_size=8))
@few
def test_law_3_arrival_order_within_a_version_changes_no_bit(name, order, late):
    made = []
    for arrival in (range(8), order):
        rig = Rig(small(name, cohort=8, size=8, concurrency=8))
        plane = rig.plane
        for version in range(2):  # two versions of history, so that updates may be late
            plane.advance(taken([version, 5], version), np.zeros(2, np.int64), {0, 1, 2})
        tasks = taken(range(2, 10), 2 - np.array(late))[list(arrival)]
        reports = plane.advance(tasks, 2 - tasks["version"], {0, 1, 2})
        assert reports["ticket"].tolist() == list(arrival)
        moment = plane.moment
        rules = {**moment.opt, **{f"state.{k}": v for k, v in moment.state.items()}}
        made.append((plane.params.tobytes(), {k: v.tobytes() for k, v in rules.items()}))
    assert made[0] == made[1]


@every_algorithm
def test_law_8_a_cohort_gives_what_one_by_one_training_gives(name):
    """However a cohort is cut, to the bit; and to 1e-5 of the largest coordinate what the sequential engine
    gives, which is the bound that docs/decisions/engine.md states."""
    tasks, late = taken(range(12), [0, 1] * 6), np.array([1, 0] * 6)
    totals, told, reports = [], [], []
    for chunk, cuts in ((0, [12]), (0, [1] * 12), (12, [12]), (1, [12]), (5, [3, 9])):
        algorithm = small(name, cohort=12, concurrency=12)
        rig = Rig(algorithm, make_learner=numpy_learner(local=algorithm.local))
        crew = rig.plane._crew
        crew._trainer.chunk = chunk
        sent = {0: rig.plane.moment.snapshots[0]}
        sent[1] = {name: vector + np.float32(0.5) for name, vector in sent[0].items()}
        starts = np.cumsum([0, *cuts])
        pieces = [slice(a, b) for a, b in itertools.pairwise(starts)]
        now = rig.plane._now(tasks)
        reports.append(np.concatenate([crew.train(tasks[p], late[p], sent, {}, now)[0] for p in pieces]))
        made = rig.plane._spill.blocks(np.arange(12)) if algorithm.combine.needs_all else []
        totals.append(np.concatenate([crew.total().total, *(block.reshape(-1) for _, block in made)]))
        told.append(totals[-1].tobytes() + reports[-1].tobytes())
    assert told[0] == told[1] and told[2] == told[3] == told[4]
    one_by_one, together = totals[0].astype(float), totals[2].astype(float)
    assert np.abs(together - one_by_one).max() <= 1e-5 * np.abs(one_by_one).max()
    for column in ("loss", "loss_sq_mean", "norm", "a_norm", "num_steps", "num_examples", "refused"):
        np.testing.assert_allclose(reports[2][column], reports[0][column], rtol=1e-5, err_msg=column)


RULES = sorted({type(small(name).local): name for name in NAMES if small(name).local}.values())
"""An algorithm for each local rule."""


def jax_cohorts():
    pytest.importorskip("jax")
    from muster.learn.jax_learner import JaxLearner

    return JaxLearner


def numba_cohorts():
    pytest.importorskip("numba")
    from muster.learn.numba_learner import NumbaLearner

    return NumbaLearner


def torch_cohorts():
    pytest.importorskip("torch")
    from muster.learn.torch_cohort import TorchCohort

    return TorchCohort


@pytest.mark.parametrize("cohorts", [numba_cohorts, jax_cohorts, torch_cohorts])
@pytest.mark.parametrize("name", RULES)
def test_law_8_a_cohort_of_another_backend_gives_what_one_by_one_training_gives(name, cohorts):
    """To 1e-5 of the largest coordinate, which is the bound that docs/decisions/engine.md states."""
    algorithm, together = small(name, cohort=12), cohorts()
    tasks, late = taken(range(12), [0] * 12), np.zeros(12, np.int64)
    totals, reports = [], []
    for make, chunk in ((NumpyLearner, 0), (together, 12)):
        local = algorithm.local
        learner = lambda: make(Logistic(), Classification(), FACTS, local, local.work(Work(batch_size=2)))  # noqa: B023, E731
        rig = Rig(algorithm, make_learner=learner)
        crew = rig.plane._crew
        crew._trainer.chunk = chunk
        sent = {0: rig.plane.moment.snapshots[0]}
        reports.append(crew.train(tasks, late, sent, {}, rig.plane._now(tasks))[0])
        made = rig.plane._spill.blocks(np.arange(12)) if algorithm.combine.needs_all else []
        whole = [crew.total().total, *(block.reshape(-1) for _, block in made)]
        totals.append(np.concatenate(whole).astype(float))
    assert np.abs(totals[1] - totals[0]).max() <= 1e-5 * np.abs(totals[0]).max()
    for column in ("loss", "loss_sq_mean", "norm", "a_norm", "num_steps", "num_examples", "refused"):
        np.testing.assert_allclose(reports[1][column], reports[0][column], rtol=1e-5, err_msg=column)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return prepare(Toy(), 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pools(stored):
    """Four workers for each recipe: algorithms that train and fold alike share theirs."""
    made = {}

    def pool(algorithm, folding):
        parts = (Logistic(), Classification(), algorithm.local, algorithm.local.work(Work(batch_size=2)))
        recipe = Recipe("numpy", *parts, folding, str(stored.path))
        key = dumps(recipe)
        if key not in made:
            size = len(algorithm.local.up) * Logistic().spec(FACTS).size
            made[key] = Pool(recipe, 4, size, len(stored.test))
        return made[key]

    yield pool
    for each in made.values():
        each.close()


@every_algorithm
def test_law_11_the_same_seed_gives_the_same_hash_for_any_number_of_workers(name, stored, pools, tmp_path):
    """1, 2 and 4 workers, and one in this process."""
    runs = []
    learner = numpy_learner(local=small(name).local)
    for num_workers in (None, 1, 2, 4):
        rig = Rig(small(name), data=stored, make_learner=learner, limits=Limits(rounds=4), store=tmp_path)
        if num_workers is not None:
            crew = pools(rig.algorithm, rig.folding())
            everyone, crew._slots = crew._slots, crew._slots[:num_workers]
            rig.plane._crew = crew
        rig.run()
        if num_workers is not None:
            crew._slots = everyone
        runs.append((rig.hash, rig.told_records()))
    assert all(run == runs[0] for run in runs[1:])
    other = Rig(small(name), data=stored, make_learner=learner, limits=Limits(rounds=4), seed=6)
    assert other.run().hash != runs[0][0]


@every_algorithm
def test_a_run_depends_on_its_seed_alone(name):
    same = [Rig(small(name), make_learner=lambda: Wander(keeping=True)).run() for _ in range(2)]
    other = Rig(small(name), make_learner=lambda: Wander(keeping=True), seed=6).run()
    assert same[0].hash == same[1].hash != other.hash
    assert same[0].commands == same[1].commands != other.commands


def test_an_inline_crew_is_the_default_of_these_laws():
    assert isinstance(Rig(small("fedavg")).plane._crew, Inline)

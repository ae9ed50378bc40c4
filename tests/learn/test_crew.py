import os
from dataclasses import replace

import numpy as np
import pytest

import muster.learn.crew as crews
from muster.algorithms.ditto import Beside
from muster.algorithms.fedavg import SGD, Mean
from muster.core.errors import TrainingError, UserError
from muster.core.state import Limits
from muster.core.store import ClientStore, decode, encode
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.learn import automatic as auto
from muster.learn.accumulator import Folding
from muster.learn.automatic import Automatic
from muster.learn.client import OwnClient
from muster.learn.crew import Inline, Recipe, examined
from muster.learn.later import Later
from muster.learn.plane import DataPlane
from muster.learn.pool import Pool
from muster.models.dense import Logistic
from muster.tasks.classification import Classification
from worlds.rig import Rig, small
from worlds.toy import FACTS, SIZES, toy_population

SPEC = Logistic().spec(FACTS)
FOLDING = Folding(Mean(), max(SIZES), 44, 1, SGD())

CLIENT = '''
import os
from muster.learn.client import Client


class Mine(Client):
    """Moves by what it remembers; fails as the job says, if it is the client that the job names."""

    def train(self, data, model, conf):
        client = round(float(data.x[0, 0]) * 16)
        if conf.fails == "raises" and client == conf.client:
            raise ZeroDivisionError("nothing to divide by")
        if conf.fails == "dies" and client == conf.client:
            os._exit(3)
        if conf.fails == "mistakes":
            return "no model"
        seen = self.state.get("seen", 0)
        model.parameters["dense0.bias"] += client / 16 + seen + self.rng.random()
        self.state["seen"] = seen + 1
        self.state["worker"] = os.getpid()
        return model, {"loss": float(seen)}
'''


@pytest.fixture
def recipe(stored, tmp_path):
    def make(fails="not", client=5, local=None):
        file = tmp_path / "mine.py"
        file.write_text(CLIENT)
        own = OwnClient(f"{file}:Mine", {"fails": fails, "client": client})
        parts = (Logistic(), Classification(), local or own, Work(batch_size=2))
        return Recipe("numpy", *parts, FOLDING, str(stored.path))

    return make


def tasks_of(clients, versions=0, attempts=0):
    return rows(
        TASK, len(clients), ticket=range(len(clients)), client=clients, version=versions, attempt=attempts
    )


def train(crew, clients, kept=None, versions=0, attempts=0):
    sent = {0: {"model": SPEC.zeros()}, 1: {"model": SPEC.zeros() + np.float32(0.5)}}
    return crew.train(tasks_of(clients, versions, attempts), [0] * len(clients), sent, kept or {}, {})


def test_a_pool_gives_the_bits_of_this_process(recipe, pool):
    """Training of several versions, evaluation, and the same again after `clear`."""
    given = recipe(local=SGD())
    alone, many = Inline(given.trainer()), pool(given, 2)
    for clients in (range(12), [3], [7, 1, 5]):
        versions = [i % 2 for i in range(len(clients))]
        told = [train(crew, list(clients), versions=versions) for crew in (alone, many)]
        assert told[0][0].tobytes() == told[1][0].tobytes()
        assert told[0][1] == told[1][1] == {}
        assert alone.total().total.any()
        assert alone.total().total.tobytes() == many.total().total.tobytes()
        for crew in (alone, many):
            crew.clear()
            assert not crew.total().total.any()
    params = np.linspace(-1, 1, SPEC.size, dtype=np.float32)
    assert alone.evaluate(3, params) == many.evaluate(3, params)
    assert max(many.peaks()) > 10**7 and len(many.peaks()) == 2 and alone.peaks() == ()


def test_a_pool_measures_the_bits_of_this_process(recipe, pool):
    """Each client by the model of its own version, in the order of the tasks."""
    given = recipe(local=SGD())
    alone, many = Inline(given.trainer()), pool(given, 2)
    sent = {0: {"model": SPEC.zeros()}, 1: {"model": np.linspace(-1, 1, SPEC.size, dtype=np.float32)}}
    tasks = tasks_of([7, 1, 5, 0], versions=[0, 1, 0, 1])
    here, there = (crew.measure(tasks, sent, {}) for crew in (alone, many))
    assert here.tobytes() == there.tobytes()
    assert here["client"].tolist() == [7, 1, 5, 0] and here["ticket"].tolist() == [0, 1, 2, 3]
    assert here["loss"][[0, 2]] == pytest.approx(np.log(3))  # of three classes, by a model of zeros
    learner, data = given.trainer().learner, given.trainer().data
    alone_again = learner.evaluate(sent[1]["model"], data.client(1))
    assert (here["loss"][1], here["accuracy"][1]) == (alone_again["loss"], alone_again["accuracy"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_cohort_measures_side_by_side_what_each_client_measures_alone(recipe, pool, num_workers):
    given = recipe(local=SGD())
    together = replace(given, chunk=3)
    sent = {v: {"model": np.linspace(-1, v, SPEC.size, dtype=np.float32)} for v in (0, 1)}
    tasks = tasks_of([7, 1, 5, 0, 2, 3, 4, 6, 8, 9, 10], versions=[0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1])
    alone, here = (Inline(each.trainer()).measure(tasks, sent, {}) for each in (given, together))
    there = pool(together, num_workers).measure(tasks, sent, {})
    assert here.tobytes() == there.tobytes()
    for name in ("ticket", "client", "num_examples", "accuracy"):
        assert np.array_equal(here[name], alone[name], equal_nan=True)
    assert here["loss"] == pytest.approx(alone["loss"], rel=1e-6, nan_ok=True)


def test_evaluation_in_spans_is_that_of_all_examples(recipe, monkeypatch):
    it = recipe(local=SGD()).trainer()
    params = np.linspace(-1, 1, SPEC.size, dtype=np.float32)
    whole = it.learner.evaluate(params, it.data.test)
    monkeypatch.setattr(crews, "SPAN", 7)  # 20 test examples: 7, 7 and 6
    found = Inline(it).evaluate(0, params)
    assert found == pytest.approx(whole, rel=1e-6) and set(found) == {"loss", "accuracy"}


def test_a_sample_of_the_test_set_is_drawn_by_the_seed(recipe, pool, stored):
    """Thirteen of twenty, none twice, the same for any number of workers, others for another seed."""
    given = replace(recipe(local=SGD()), sample=13)
    params = np.linspace(-1, 1, SPEC.size, dtype=np.float32)
    drawn = examined(given.trainer(), 13)
    rows_of = [stored.test.x.tolist().index(row) for row in drawn.x.tolist()]
    assert len(set(rows_of)) == 13 and rows_of == sorted(rows_of)
    expected = given.trainer().learner.evaluate(params, drawn)
    assert Inline(given.trainer(), 13).evaluate(0, params) == pytest.approx(expected, rel=1e-6)
    assert pool(given, 2).evaluate(0, params) == Inline(given.trainer(), 13).evaluate(0, params)
    other = replace(given, folding=replace(FOLDING, seed=2)).trainer()
    assert examined(other, 13).x.tolist() != drawn.x.tolist()
    for sample in (0, 20, 99):
        assert len(examined(other, sample)) == 20


def test_an_evaluation_that_overlaps_gives_the_same_numbers_later(recipe, pool):
    """Two of them wait while a version is trained; what it sums up is untouched."""
    given = recipe(local=SGD())
    alone, many = Inline(given.trainer()), pool(given, 2, overlap=True)
    params = [np.linspace(-k, k, SPEC.size, dtype=np.float32) for k in (1, 2)]
    late = [many.evaluate(k, each) for k, each in enumerate(params)]
    assert not late[0].ready
    many.clear()
    assert train(many, list(range(12)))[0].tobytes() == train(alone, list(range(12)))[0].tobytes()
    for found, each in zip(late, params, strict=True):
        expected = alone.evaluate(0, each)
        assert (
            dict(found) == expected and found.ready and len(found) == 2 and found["loss"] == expected["loss"]
        )
    assert many.total().total.tobytes() == alone.total().total.tobytes()
    assert not [name for name in many._shelf._up if name.startswith("result")]


@pytest.mark.parametrize("overlap", [False, True])
def test_clients_are_evaluated_alike_by_whoever_does_it(recipe, pool, overlap):
    """Forty of them, some more than once: one worker, two, or this process."""
    given = replace(recipe(local=SGD()), share=7)
    clients, params = np.arange(40) % 12, np.linspace(-1, 2, SPEC.size, dtype=np.float32)
    alone = Inline(given.trainer(), share=7).evaluate_each(0, params, clients, {})
    assert set(alone) == {"loss", "accuracy"} and len(alone["loss"]) == 40
    assert alone["loss"][:12].tolist() == pytest.approx(alone["loss"][12:24].tolist())
    for num_workers in (1, 2):
        found = pool(given, num_workers, overlap=overlap).evaluate_each(0, params, clients, {})
        assert isinstance(found, Later) is overlap
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_a_pool_evaluates_each_client_with_what_it_has_kept(recipe, pool):
    """Ditto: client 3 has a model of its own, the others use the global one."""
    folding = replace(FOLDING, local=Beside())
    given = replace(recipe(local=Beside()), share=9, folding=folding)
    params = np.linspace(-1, 1, SPEC.size, dtype=np.float32)
    own = np.linspace(3, -2, SPEC.size, dtype=np.float32)
    kept = {3: encode({"own": own})}
    found = pool(given, 1).evaluate_each(0, params, np.arange(6), kept)
    plain = Inline(given.trainer(), share=9)
    everybody = plain.evaluate_each(0, params, np.arange(6), {})
    alone = plain.evaluate_each(0, own, np.array([3]), {})
    expected = [*everybody["loss"][:3], *alone["loss"], *everybody["loss"][4:]]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)


def test_the_order_of_workers_and_chunks_does_not_matter(recipe):
    """Trained by two workers in other cuts and another order, the merged sums are the same."""
    given = recipe(local=SGD())
    totals = []
    for first, second in (([0, 1, 2, 3], [4, 5]), ([5, 3, 1], [4, 2, 0]), ([4, 5], [0, 1, 2, 3])):
        one, two = Inline(given.trainer()), Inline(given.trainer())
        train(one, first)
        train(two, second)
        two.total().merge(one.total().total)
        totals.append(two.total().total.tobytes())
    assert len(set(totals)) == 1


def plane_of(crew, algorithm, folder):
    return DataPlane(algorithm, SPEC, crew, ClientStore(folder), toy_population(), FOLDING, SPEC.zeros())


def test_kept_state_travels_through_two_workers(recipe, pool, tmp_path):
    """Three versions in which clients come again, one of them three times in one version."""
    given = recipe()
    algorithm = small("fedavg", cohort=12).but(local=given.local)
    ends = []
    for name, crew in (("alone", Inline(given.trainer())), ("many", pool(given, 2))):
        plane = plane_of(crew, algorithm, tmp_path / name)
        attempts = np.zeros(12, int)
        losses = []
        for version, clients in enumerate([list(range(12)), [4, 2, 4, 4, 9], [9, 4, 0, 1, 3]]):
            numbers = []
            for client in clients:
                numbers.append(attempts[client])
                attempts[client] += 1
            tasks = tasks_of(clients, version, numbers)
            reports = plane.advance(tasks, np.zeros(len(clients), np.int64), set())
            losses.append(reports["loss"].tolist())
        # the client reports what it remembers as its loss
        assert losses == [[0.0] * 12, [1.0, 1.0, 2.0, 3.0, 1.0], [2.0, 4.0, 1.0, 1.0, 1.0]]
        kept = {client: decode(plane.store.read(client)) for client in range(12)}
        assert [kept[c]["seen"] for c in range(12)] == attempts.tolist()
        workers = {state["worker"] for state in kept.values()}
        assert workers == {os.getpid()} if name == "alone" else os.getpid() not in workers
        ends.append(plane.params.tobytes())
        plane.store.close()
    assert ends[0] == ends[1]


@pytest.mark.parametrize("num_workers", [None, 2])
def test_a_client_that_raises_is_named(recipe, pool, num_workers):
    given = recipe("raises")
    crew = Inline(given.trainer()) if num_workers is None else pool(given, num_workers)
    with pytest.raises(TrainingError) as caught:
        train(crew, list(range(12)))
    text = "training failed at client 5, task 5, 9 examples: ZeroDivisionError: nothing to divide by"
    assert str(caught.value) == text


@pytest.mark.parametrize("num_workers", [None, 1])
def test_a_users_mistake_stays_one_sentence(recipe, pool, num_workers):
    given = recipe("mistakes")
    crew = Inline(given.trainer()) if num_workers is None else pool(given, num_workers)
    with pytest.raises(UserError, match=r"^Mine\.train returned str, but must return the trained model"):
        train(crew, [2])


def test_a_worker_that_cannot_be_built_says_why(recipe, pool):
    given = replace(recipe(local=SGD()), data="/nowhere/at/all")
    with pytest.raises(UserError, match="the prepared data in /nowhere/at/all cannot be used"):
        train(pool(given, 1), [0])


@pytest.mark.parametrize(
    ("max_workers", "after_secs", "becomes"), [(2, 0.0, True), (1, 0.0, False), (2, 1e9, False)]
)
def test_a_pool_is_started_when_training_takes_long(
    stored, recipe, pool, monkeypatch, max_workers, after_secs, becomes
):
    monkeypatch.setattr(auto, "POOL_AFTER_SECS", after_secs)
    given = recipe(local=SGD())
    said = []
    crew = Automatic(Inline(given.trainer()), lambda: pool(given, max_workers), max_workers, said.append)
    algorithm = small("fedavg", cohort=12)
    automatic, alone = plane_of(crew, algorithm, None), plane_of(Inline(given.trainer()), algorithm, None)
    for plane in (automatic, alone):
        for version in range(3):
            tasks = tasks_of(range(12), version, version)
            plane.advance(tasks, np.zeros(12, np.int64), set())
    assert automatic.params.tobytes() == alone.params.tobytes()
    assert isinstance(crew._crew, Pool) == becomes
    assert len(said) == becomes
    assert automatic.evaluate() == alone.evaluate()
    assert (sum(crew.peaks()) > 0) == becomes
    for plane in (automatic, alone):
        plane.close()


def test_a_failing_client_ends_a_run_with_that_error(stored, recipe):
    given = recipe("raises")
    rig = Rig(
        small("fedavg", cohort=12).but(local=given.local),
        data=stored,
        make_learner=lambda: given.trainer().learner,
        limits=Limits(rounds=3),
    )
    with pytest.raises(TrainingError, match="client 5"):
        rig.run()
    assert rig.plane.version == 0 and rig.plane.store.read(0) is None

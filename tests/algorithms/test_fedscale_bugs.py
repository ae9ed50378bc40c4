"""FedScale's published bugs (S: security, C: correctness, D: design), each with what happens here instead.

C7 (Oort's crashes, and a confidence that is ignored) and C9 (utilities of stragglers) are in test_oort.py
and test_testing_selector.py; that all our examples run (C15) is in tests/e2e/test_examples.py.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import muster
from muster.algorithms.fedavg import SGD, Add, Mean, Sync, fedavg
from muster.algorithms.fedbuff import Buffered, StaleMean, fedbuff
from muster.algorithms.fedprox import Prox
from muster.algorithms.fedyogi import fedyogi
from muster.algorithms.norm_bound import Bounded
from muster.algorithms.qfedavg import Fair
from muster.algorithms.testing_selector import by_category
from muster.cli import app
from muster.compose import compose
from muster.core.errors import DataError, JobError, UserError
from muster.core.examples import Examples, Facts
from muster.core.params import ParamSpec
from muster.core.randomness import rng
from muster.core.state import Limits
from muster.core.tables import SECOND, Train
from muster.core.work import Work
from muster.devices.availability import Intervals
from muster.devices.plain_pickle import read_plain_pickle
from muster.job import load_job
from muster.learn.learners import make_learner
from muster.models.recurrent import CharLSTM
from muster.net.credentials import check_plaintext
from muster.tasks.next_character import NextCharacter
from worlds.rig import Rig, numpy_learner, small
from worlds.rules import reports, vector
from worlds.toy import SIZES, Fixed, toy_data
from worlds.world import ToyWorld

FOREVER = 10**9 * SECOND


def run(world, algorithm=None, rounds=1, **parts):
    """All of a run of FedAvg with cohorts of 3, in a world of its own."""
    algorithm = algorithm or small("fedavg", cohort=3).but(**parts)
    return Rig(algorithm, world, toy_data(SIZES[: world.num_clients]), limits=Limits(rounds=rounds)).run()


def test_fedscale_s1_what_comes_as_a_pickle_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    hostile = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    with pytest.raises(DataError):
        read_plain_pickle(hostile, "trace")
    assert not marker.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7"])
def test_fedscale_s2_no_port_is_open_to_a_network_in_plaintext(host):
    with pytest.raises(UserError, match="--insecure is for this machine only"):
        check_plaintext(host)


def test_fedscale_s3_no_value_of_a_job_is_evaluated(tmp_path):
    marker = tmp_path / "ran"
    with pytest.raises(UserError, match=r"engine\.workers"):
        load_job({"engine": {"workers": f"__import__('os').mkdir('{marker}')"}})
    assert not marker.exists()


def callbacks(application):
    """The functions behind all commands."""
    yield from (command.callback for command in application.registered_commands)
    for group in application.registered_groups:
        yield from callbacks(group.typer_instance)


def test_fedscale_s4_no_secret_stands_on_a_command_line():
    """Where others of the machine could read it: what is secret is in a file, or made here (a flag)."""
    secret, found = ("token", "password", "secret", "key"), 0
    for callback in callbacks(app):
        for name, hint in get_type_hints(callback).items():
            if any(word in name for word in secret):
                found += 1
                assert hint in (bool, Path, Path | None), (callback.__name__, name)
    assert found >= 2
    with pytest.raises(JobError, match=r"track\.wandb_key is not a known key"):
        load_job({"track": {"wandb_key": "abc"}})


def test_fedscale_c1_availability_remembers_no_question():
    """t = 60000, 70000, 61000: FedScale says yes, no, and then no of a second that it had called online."""
    row = Intervals.joined(
        np.zeros(2, np.int64),
        np.array([12788, 100044]) * SECOND,
        np.array([65881, 133574]) * SECOND,
        np.array([518400]) * SECOND,
    )

    def online(secs):
        return bool(row.online(np.array([0]), secs * SECOND)[0])

    assert [online(t) for t in (60000, 70000, 61000)] == [True, False, True]
    assert [online(t + 7 * 518400) for t in (61000, 70000, 60000)] == [True, False, True]


def test_fedscale_c2_the_proximal_term_pulls_towards_the_model_sent():
    # w = 1, x = 0, no gradient: 1 - 0.1 x 0.1 x 1; FedScale gives 1.01.
    params, _ = Prox(lr=0.1, mu=0.1).step(vector(1.0), vector(0.0), {"model": vector(0.0)}, {})
    assert params == pytest.approx([0.99], rel=1e-12)


def test_fedscale_c3_the_mean_weighs_by_examples():
    rig = Rig(
        small("fedavg", cohort=2),
        ToyWorld(2),
        toy_data((1, 3)),
        lambda: Fixed(float),
        limits=Limits(rounds=1),
    )
    rig.run()
    # Updates 0 and 1 of clients with 1 and 3 examples, from 1.
    assert rig.plane.params[0] == 1 + 3 / 4


def test_fedscale_c4_a_buffer_averages_deltas():
    """From x = 0, deltas 1 (fresh) and 3 (3 versions late): (1 + 3 / 2) / 2; FedScale's models give 1.67."""
    rule, late = StaleMean(), reports(2, staleness=[0, 3])
    assert rule.weights(late) @ [1.0, 3.0] / rule.divisors(late).sum() == 1.25


def test_fedscale_c4_nobody_works_twice_at_once():
    out: dict[int, int] = {}
    for events, commands in run(ToyWorld(12), small("fedbuff"), rounds=8).sim.told:
        for ticket in events.table["ticket"].tolist():
            out.pop(ticket, None)
        for command in commands:
            if isinstance(command, Train):
                out |= dict(
                    zip(command.tasks["ticket"].tolist(), command.tasks["client"].tolist(), strict=True)
                )
        assert len(set(out.values())) == len(out) <= 5


def test_fedscale_c4_a_buffer_waits_when_nobody_is_there():
    world = ToyWorld(4, shifts=dict.fromkeys(range(4), ((50 * SECOND, FOREVER),)))
    rig = run(world, fedbuff().but(pace=Buffered(2, 3)), rounds=2)
    assert rig.records[-1].version == 2 and rig.records[1].now_secs > 50


def test_fedscale_c5_who_failed_is_not_averaged_in():
    """Client 0 is lost in its task: what counts is the update of client 1 alone."""
    world = ToyWorld(2, loss=lambda k, attempt: SECOND if k == 0 else None)
    algorithm = small("fedavg", cohort=2)
    rig = Rig(algorithm, world, toy_data((1, 3)), lambda: Fixed(float), limits=Limits(rounds=1)).run()
    assert rig.plane.params[0] == 2.0 and list(rig.records[1].clients) == [1]


@pytest.mark.parametrize("work", [Work(batch_size=20), Work(steps=3, batch_size=20)])
def test_fedscale_c6_fewer_examples_than_a_batch_are_trained_on(work):
    learner = numpy_learner(work)()
    data, up = toy_data((1, 5)), np.zeros((1, learner.spec.size), np.float32)
    made = learner.train({"model": learner.initial(0)}, data.client(1), np.random.default_rng(0), up, None)
    assert made.num_steps == (work.steps or 1) and np.abs(up).max() > 0


def test_fedscale_c8_the_greedy_cover_and_its_program_run():
    """Of two alike the work is halved: 4 examples of 10 ms each at either, and the model's 1 s."""
    alike, request = np.array([[8], [8]]), np.array([8])
    done = by_category(alike, request, np.array([10.0, 10.0]), np.array([1.0, 1.0]), 2, gap=0.0)
    assert done.examples.tolist() == [[4], [4]] and done.secs == pytest.approx(1.04)


@pytest.mark.parametrize("key", ["clock_factor", "sample_seed", "model_size", "target_delta"])
def test_fedscale_c10_what_would_be_ignored_is_refused(key):
    with pytest.raises(UserError, match=key):
        load_job({"train": {key: 1}})


def test_fedscale_c11_who_is_away_in_between_is_lost_although_it_is_back_at_the_end():
    world = ToyWorld(3, lambda k, attempt: 10 * SECOND, shifts={0: ((0, 4 * SECOND), (6 * SECOND, FOREVER))})
    record = run(world).records[1]
    assert sorted(record.clients) == [1, 2] and record.num_lost == 1


def test_fedscale_c12_a_round_in_which_all_drop_out_is_tried_again():
    world = ToyWorld(3, loss=lambda k, attempt: SECOND if attempt < 2 else None)
    rig = run(world)
    assert rig.records[-1].version == 1 and rig.records[1].num_lost == 6


def test_fedscale_c12_a_run_in_which_all_always_drop_out_ends_with_a_reason():
    rig = run(ToyWorld(3, loss=lambda k, attempt: SECOND))
    assert rig.sim.state.stopped and rig.plane.version == 0


def test_fedscale_c13_c14_the_last_round_is_evaluated():
    job = {
        "data": {"partition": {"name": "iid", "num_clients": 4}},
        "model": "logistic",
        "algorithm": {"pace": {"cohort": 2}},
        "engine": {"backend": "numpy"},
        "stop": {"rounds": 3},
        "track": {"evaluate_every": 2},
    }
    records = list(muster.simulate(job))
    assert [r.version for r in records if r.metrics] == [0, 2, 3]
    assert all({"loss", "accuracy"} <= set(r.metrics) for r in records if r.metrics)


def test_fedscale_c15_a_model_of_text_trains():
    text, starts = np.tile(np.arange(4, dtype=np.uint8), 20), np.arange(60)
    data, facts = Examples(starts, text[starts + 5], text), Facts("text", (5,), 4, vocabulary="abcd")
    local, work = SGD(lr=0.5, momentum=0.9), Work(epochs=20, batch_size=10)
    learner = make_learner("torch", CharLSTM(embed=4, hidden=16), NextCharacter(), facts, local, work)
    before, up = learner.initial(0), np.zeros((1, learner.spec.size), np.float32)
    learner.train({"model": before}, data, rng(0, "train"), up, None)
    after = before + up[0]
    assert learner.evaluate(after, data)["loss"] < 0.5 * learner.evaluate(before, data)["loss"]


def test_fedscale_c16_the_size_of_the_model_is_known_before_anybody_is_sent_it():
    session = compose(load_job({"model": "logistic", "stop": {"rounds": 1}}), clock_only=True)
    # 64 x 10 weights and 10 biases, 4 bytes each, at least: padded to whole cache lines.
    assert session.sim.world.down_bytes == session.sim.world.up_bytes == session.spec.num_bytes >= 2600
    first = next(iter(session.sim))
    assert (first.version, first.down_bytes) == (0, 0)
    session.close()


def test_fedscale_c17_a_running_variance_stays_a_mean_of_variances():
    """Yogi moves the parameters alone; variances of 1 that clients move by +0.5 and -0.5 stay above 0."""
    algorithm = fedyogi().but(pace=Sync(2), combine=Mean(by="uniform"))
    rig = Rig(
        algorithm,
        ToyWorld(2),
        toy_data((1, 1)),
        lambda: Fixed(lambda client: 0.5 - client),
        limits=Limits(rounds=9),
    ).run()
    spec: ParamSpec = rig.plane.spec
    assert (rig.plane.params[spec.trained :] == 1.0).all()


def test_fedscale_c18_a_clipped_update_is_not_added_to_what_it_clips():
    bound = Bounded(max_norm=2.5)
    rig = Rig(
        fedavg().but(pace=Sync(1), combine=bound, server=Add()),
        ToyWorld(1),
        toy_data((1,)),
        lambda: Fixed(lambda client: 10.0),
        limits=Limits(rounds=1),
    ).run()
    moved = rig.plane.params[: rig.plane.spec.trained] - 1
    assert float(np.linalg.norm(moved)) == pytest.approx(2.5, rel=1e-6)
    assert moved == pytest.approx(np.full(32, 2.5 / sqrt(32)), rel=1e-6)


def test_fedscale_c19_there_are_as_many_clients_as_the_data_has_whatever_the_cohort():
    job = {
        "data": {"partition": {"name": "iid", "num_clients": 30}},
        "algorithm": {"pace": {"cohort": 3}},
        "stop": {"rounds": 20},
    }
    drawn = {client for record in muster.simulate(job, clock_only=True) for client in record.clients}
    assert len(drawn) > 10 and max(drawn) < 30


def test_fedscale_d6_what_dropped_clients_cost_is_counted():
    world = ToyWorld(3, lambda k, attempt: 10 * SECOND, lambda k, attempt: 4 * SECOND if k == 0 else None)
    record = run(world).records[1]
    assert record.wasted_by_reason == {"dropped": 4.0} and record.device_secs_used == 20.0


def test_nine_digits_of_the_published_means():
    """q-FedAvg and FedBuff as FedScale's numbers have them, where they are the papers'."""
    # lr 0.1, w = 1, clients at 0.8 with loss 2 and at 0.9 with loss 1: D = 5, h = 35; q = 0: the plain mean.
    assert 1 + fair(1.0, 0.1, [2, 1], [[-0.2], [-0.1]]) == pytest.approx([1 - 5 / 35], abs=1e-9)
    assert 1 + fair(0.0, 0.1, [2, 1], [[-0.2], [-0.1]]) == pytest.approx([0.85], abs=1e-9)
    # lr 0.05, q = 2, w = (1, 2): D = (16.5, -6.5), h = 205.
    moved = np.array([1, 2]) + fair(2.0, 0.05, [2, 0.5], [[-0.2, 0.1], [-0.1, -0.3]])
    assert moved == pytest.approx([0.91951219512, 2.03170731707], abs=1e-9)
    late = StaleMean().weights(reports(6, staleness=np.arange(6)))
    assert late == pytest.approx(
        [1, 0.70710678119, 0.57735026919, 0.5, 0.4472135955, 0.40824829046], abs=1e-9
    )


def fair(q, lr, losses, deltas):
    """What q-FedAvg adds to the model."""
    deltas = np.array(deltas)
    table = reports(2, num_examples=1, loss_before=losses, norm=np.linalg.norm(deltas, axis=1))
    rule = Fair(q=q, lr=lr)
    return rule.weights(table) @ deltas / rule.divisors(table).sum()

"""Epsilon: dp-accounting's own number for the sampler that ran, and no amplification elsewhere."""

from __future__ import annotations

from dataclasses import replace

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

import muster
from muster.algorithms.dp_fedavg import Poisson, Private, dp_fedavg
from muster.algorithms.fedavg import Sync, fedavg
from muster.algorithms.fedbuff import Buffered
from muster.algorithms.oort import Oort
from muster.algorithms.scaffold import scaffold
from muster.core.errors import UserError
from muster.core.params import ParamSpec
from muster.core.state import Limits
from muster.privacy import expecting, reckoned
from worlds.rig import Rig, small
from worlds.toy import Fixed, toy_population

SPEC = ParamSpec.of([("w", (4,), "weight")])
CLIENTS = toy_population((1,) * 200)
PRIVATE = dp_fedavg().but(combine=Private(noise_multiplier=1.5, delta=1e-4), pace=Sync(cohort=20))
POISSON = PRIVATE.but(select=Poisson(0.05))


def test_poisson_draws_are_amplified():
    privacy = reckoned(POISSON, CLIENTS, 0.0, SPEC)
    own = RdpAccountant().compose(dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.5)), 30)
    assert (privacy.sampler, privacy.amplified) == ("poisson", True)
    assert privacy.epsilon(30) == own.get_epsilon(1e-4) and privacy.epsilon(0) == 0


def test_fixed_draws_are_amplified_for_neighbours_that_replace_a_client():
    privacy = reckoned(PRIVATE, CLIENTS, 0.0, SPEC)
    own = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    own.compose(dp.SampledWithoutReplacementDpEvent(200, 20, dp.GaussianDpEvent(0.75)), 30)
    assert privacy.sampler == "fixed" and privacy.epsilon(30) == own.get_epsilon(1e-4)
    assert privacy.why == "20 of 200 clients, uniformly without replacement"


@pytest.mark.parametrize(
    ("algorithm", "population", "dropout", "why"),
    [
        (PRIVATE, replace(CLIENTS, availability=object()), 0.0, "clients come and go"),
        (POISSON, replace(CLIENTS, availability=object()), 0.0, "clients come and go"),
        (POISSON, CLIENTS, 0.05, "tasks get lost"),
        (PRIVATE.but(pace=Sync(20, over_commit=1.3)), CLIENTS, 0.0, "over-commitment picks the fast"),
        (PRIVATE.but(pace=Sync(20, deadline_secs=9)), CLIENTS, 0.0, "the deadline picks the fast"),
        (PRIVATE.but(select=Oort()), CLIENTS, 0.0, "the select draws by more than chance"),
    ],
    ids=["fixed, away", "poisson, away", "lost", "over-committed", "deadline", "oort"],
)
def test_nothing_is_amplified_elsewhere_and_it_is_said(algorithm, population, dropout, why):
    privacy = reckoned(algorithm, population, dropout, SPEC)
    own = RdpAccountant().compose(dp.GaussianDpEvent(1.5), 30)
    assert not privacy.amplified and privacy.why == f"not amplified: {why}"
    assert privacy.epsilon(30) == own.get_epsilon(1e-4)


def test_what_is_not_private_has_no_epsilon_and_a_pace_without_rounds_is_refused():
    assert reckoned(fedavg(), CLIENTS, 0.0, SPEC) is None
    with pytest.raises(UserError, match="pace must be sync"):
        reckoned(PRIVATE.but(pace=Buffered()), CLIENTS, 0.0, SPEC)


def test_the_clients_expected_follow_from_select_and_pace():
    assert expecting(PRIVATE, 200).combine.expected == 20
    assert expecting(POISSON, 200).combine.expected == 10
    assert (PRIVATE.pace.min_start, expecting(POISSON, 200).pace.min_start) == (None, 1)
    adaptive = PRIVATE.but(combine=Private(quantile=0.5))
    assert expecting(adaptive, 200).combine.count_noise == 1.0
    assert expecting(fedavg(), 200) == fedavg()


def test_records_and_the_summary_say_epsilon():
    job = {
        "data": {"partition": {"name": "iid", "num_clients": 40}},
        "population": "always_on",
        "algorithm": {
            "name": "dp_fedavg",
            "pace": {"cohort": 30},
            "select": {"name": "poisson", "rate": 0.25},
        },
        "stop": {"rounds": 3},
    }
    run = muster.simulate(job)
    told = [record.epsilon for record in run]
    own = [
        RdpAccountant().compose(dp.PoissonSampledDpEvent(0.25, dp.GaussianDpEvent(1.0)), n).get_epsilon(1e-5)
        for n in (1, 2, 3)
    ]
    assert told == [0.0, *own] and np.diff(told).min() > 0
    assert run.summary.privacy["epsilon"] == own[-1] and run.summary.privacy["sampler"] == "poisson"


def test_what_would_get_past_the_noise_is_refused():
    statistics = ParamSpec.of([("w", (4,), "weight"), ("mean", (4,), "statistic")])
    with pytest.raises(UserError, match="running statistics"):
        reckoned(PRIVATE, CLIENTS, 0.0, statistics)
    with pytest.raises(UserError, match="clients also send control"):
        reckoned(PRIVATE.but(local=scaffold().local), CLIENTS, 0.0, SPEC)


def test_a_version_of_a_poisson_sample_of_nobody_has_its_noise_and_counts():
    """Of 40 clients a twentieth is expected to be drawn: most versions have no update, and all move."""
    job = {
        "data": {"partition": {"name": "iid", "num_clients": 40}},
        "model": "logistic",
        "population": "always_on",
        "algorithm": {
            "name": "dp_fedavg",
            "pace": {"cohort": 5},
            "select": {"name": "poisson", "rate": 0.00125},
        },
        "engine": {"backend": "numpy"},
        "stop": {"rounds": 8},
    }
    run = muster.simulate(job)
    records = list(run)
    assert [record.num_accepted for record in records].count(0) >= 7 and run.summary.status == "rounds"
    losses = [record.metrics["loss"] for record in records]
    assert len(set(losses)) == len(losses) == 9, "the noise of each version moves the model"
    assert records[8].epsilon > records[7].epsilon > 0


def test_a_version_whose_updates_are_all_refused_has_its_noise_too():
    algorithm = expecting(small("dp_fedavg", cohort=4), 12)
    rig = Rig(algorithm, make_learner=lambda: Fixed(lambda client: np.nan), limits=Limits(rounds=1)).run()
    moved = rig.plane.params[: rig.plane.spec.trained] - 1
    # z C / qN = 1 / 4, whose sample deviation over 32 coordinates is within four of its own.
    assert rig.records[1].num_refused == 4 and moved.std() == pytest.approx(0.25, rel=0.5)

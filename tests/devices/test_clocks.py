"""Computing time by each rule: by hand, by the published numbers, and what jitter and changes do to it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.core.population import Population
from muster.core.tables import SECOND, TASK, rows
from muster.core.work import Work
from muster.devices.clocks import Clock, lognormal_secs, normals
from muster.devices.world import World

# FedScale's cost model and its kbit are 8/1024 of a byte; these sizes are whole bytes in it.
RESNET, ALBERT = 666786.03125, 350886.7421875


def world(clock, work=Work(), ms=(10.0,), examples=(45,), size=0, kbps=(1000.0,), macs=300e6, seed=0):
    link = np.array(kbps)
    who = Population(np.array(examples, np.int32), np.array(ms), link, link)
    return World(who, work, size, size, 0.0, seed, clock, macs)


def tasks(count, sent_at=0, attempt=0):
    return rows(
        TASK, count, ticket=np.arange(count), client=np.arange(count), sent_at=sent_at, attempt=attempt
    )


@pytest.mark.parametrize(
    ("ms", "kbps", "kbit", "batch", "steps", "compute", "link"),
    [
        (153, 2209.6159823294856, RESNET, 20, 4, 36.72, 603.5311444000703),
        (39, 18437.311985652217, RESNET, 20, 4, 9.36, 72.33006978120109),
        (22, 22915.494847737755, RESNET, 20, 4, 5.28, 58.195211203639005),
        (153, 2209.6159823294856, ALBERT, 20, 1, 9.18, 317.5997503580491),
        (1000, 1.0, 1.0, 1, 1, 3.0, 2.0),
    ],
)
@pytest.mark.parametrize("examples", [3, 1000])
def test_the_clock_of_fedscale(ms, kbps, kbit, batch, steps, compute, link, examples):
    # A client pays for batch x steps, whatever it holds.
    bytes_each_way = kbit * 1024 / 8
    assert bytes_each_way.is_integer()
    at = world(
        Clock("fedscale"),
        Work(steps=steps, batch_size=batch),
        [ms],
        [examples],
        int(bytes_each_way),
        [kbps],
    )
    (row,) = at.timing(tasks(1))
    assert row["compute"] / SECOND == pytest.approx(compute, rel=1e-9)
    assert (row["down"] + row["up"]) / SECOND == pytest.approx(link, rel=1e-9)


def test_the_lognormal_variant_of_fedscale():
    # Its numbers for np.random.seed(1): two draws of lognormal(1, 0.6), of 1 and of 2 x 2 examples.
    z = np.random.RandomState(1).standard_normal(2)
    told = lognormal_secs(z, np.array([1, 4]))
    assert told == pytest.approx([0.03601894790301564, 0.037663009234622354], rel=1e-12)
    assert lognormal_secs(np.array([-50.0]), np.array([1])) == pytest.approx([5e-7])


def test_a_clock_by_chance_does_not_look_at_the_device():
    count = 50_000
    at = world(
        Clock("fedscale_lognormal"),
        Work(steps=2, batch_size=10),
        np.linspace(1, 200, count),
        [45] * count,
        128,
        [1.0] * count,
    )
    timing = at.timing(tasks(count))
    assert (timing["down"] == SECOND).all()  # 128 bytes are its kbit
    logs = np.log(timing["compute"] / SECOND / (0.005 * 20))
    assert logs.mean() == pytest.approx(1, abs=4 * 0.6 / np.sqrt(count))
    assert logs.std() == pytest.approx(0.6, rel=0.02)
    assert abs(np.corrcoef(logs, np.arange(count))[0, 1]) < 4 / np.sqrt(count)


def test_fedscale_goes_by_steps_of_whole_batches():
    # Two passes over 45 in batches of 20: 6 steps of 20 at 3 x 10 ms. In full batches: 2 steps of 45.
    whole = world(Clock("fedscale"), Work(epochs=2, batch_size=20)).timing(tasks(1))
    full = world(Clock("fedscale"), Work(epochs=2, batch_size=0)).timing(tasks(1))
    assert [whole["compute"][0], full["compute"][0]] == [3_600_000_000, 2_700_000_000]


def test_by_flops_the_reference_model_takes_the_traces_time_and_half_of_it_half():
    # 3 x 45 x 10 ms for 300 million multiply-adds.
    for macs, secs in ((300e6, 1.35), (150e6, 0.675), (54_144, 1.35 * 54_144 / 300e6)):
        (row,) = world(Clock("flops"), macs=macs).timing(tasks(1))
        assert row["compute"] / SECOND == pytest.approx(secs, rel=1e-6)


def test_measured_scales_what_an_example_takes_here_by_how_fast_the_device_is():
    # 45 examples of 3 x 2 ms here, where the host counts as 41 ms: a device of 82 ms takes twice as long.
    at = world(Clock("measured", measured_ms=2.0), ms=(41.0, 82.0), examples=(45, 45), kbps=(1e3, 1e3))
    assert at.timing(tasks(2))["compute"].tolist() == [270_000_000, 540_000_000]
    slow = world(Clock("measured", host_ms=10.0, measured_ms=2.0))
    assert slow.timing(tasks(1))["compute"][0] == 270_000_000


def test_what_was_measured_belongs_to_the_rule_that_reads_it():
    with pytest.raises(FieldError, match=r"clock\.measured_ms is 2\.0, but must be null unless .* measured"):
        Clock("flops", measured_ms=2.0)


def test_by_flops_is_the_default_and_by_examples_looks_at_no_model():
    assert Clock() == Clock(compute="flops", jitter=0, changes=())
    for macs in (1.0, 1e12):
        assert world(Clock("examples"), macs=macs).timing(tasks(1))["compute"][0] == 1_350_000_000


def test_normals_are_normal_and_keyed():
    client = np.arange(200_000)
    drawn = normals(3, "jitter", client, np.zeros_like(client))
    assert drawn.mean() == pytest.approx(0, abs=4 / np.sqrt(len(client)))
    assert drawn.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(client)))
    # Kolmogorov and Smirnov: beyond 1.95 / sqrt(n) once in a thousand.
    exact = NormalDist().cdf
    cdf = np.array([exact(z) for z in np.sort(drawn)[::100]])
    assert np.abs(cdf - np.arange(len(client))[::100] / len(client)).max() < 1.95 / np.sqrt(len(client))
    order = np.random.default_rng(0).permutation(len(client))[:50]
    assert (normals(3, "jitter", client[order], np.zeros(50, np.int64)) == drawn[order]).all()
    assert (normals(4, "jitter", client, np.zeros_like(client)) != drawn).mean() > 0.99


@pytest.mark.parametrize("sigma", [0.1, 0.6])
def test_jitter_keeps_the_mean_and_has_its_sigma(sigma):
    count = 50_000
    at = world(Clock(jitter=sigma), ms=[10.0] * count, examples=[45] * count, kbps=[1e3] * count)
    factor = at.timing(tasks(count))["compute"] / 1_350_000_000
    assert factor.mean() == pytest.approx(1, abs=5 * np.sqrt(np.expm1(sigma**2) / count))
    assert np.log(factor).std() == pytest.approx(sigma, rel=0.02)
    again = at.timing(tasks(count, attempt=1))["compute"] / 1_350_000_000
    assert abs(np.corrcoef(factor, again)[0, 1]) < 4 / np.sqrt(count)
    late = at.timing(tasks(count, sent_at=99 * SECOND))["compute"] / 1_350_000_000
    assert (late == factor).all()  # by client and attempt only


def test_changes_begin_on_time_add_up_and_hit_their_share():
    count = 20_000
    clock = Clock(changes=((100, 2.0, 1.0), (200, 3.0, 0.25)))
    at = world(clock, ms=[10.0] * count, examples=[45] * count, kbps=[1e3] * count)
    sent = (100 * SECOND - 1, 100 * SECOND, 200 * SECOND)
    before, first, second = (at.timing(tasks(count, sent_at=when))["compute"] for when in sent)
    assert (before == 1_350_000_000).all() and (first == 2_700_000_000).all()
    assert set(second.tolist()) == {2_700_000_000, 8_100_000_000}
    slow = second == 8_100_000_000
    assert slow.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / count))
    later = at.timing(tasks(count, sent_at=900 * SECOND, attempt=7))["compute"]
    assert (later == second).all()  # the same clients stay slow


def test_jitter_does_not_change_links():
    plain = world(Clock(), size=1000).timing(tasks(1))
    shaken = world(Clock(jitter=0.5), size=1000).timing(tasks(1))
    assert plain["down"] == shaken["down"] and plain["up"] == shaken["up"]
    assert plain["compute"] != shaken["compute"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"compute": "flop"}, r"clock\.compute is 'flop'.*did you mean 'flops'"),
        ({"jitter": -0.1}, r"clock\.jitter .* at least 0"),
        ({"jitter": float("nan")}, r"clock\.jitter"),
        ({"changes": ((1, 2),)}, r"clock\.changes .* \[at_secs, factor, share\]"),
        ({"changes": ((1, 0, 1),)}, r"clock\.changes"),
        ({"changes": ((1, 2, 1.1),)}, r"clock\.changes"),
        ({"changes": ((float("nan"), 2, 1),)}, r"clock\.changes"),
        ({"changes": ((-1, 2, True),)}, r"clock\.changes"),
    ],
)
def test_what_a_clock_may_not_be(fields, says):
    with pytest.raises(FieldError, match=says):
        Clock(**fields)

"""FedAvg's five parts, by hand and against torch.optim.SGD."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedavg import SGD, Add, Mean, Sync, Uniform, fedavg
from muster.core.algorithm import Info, View
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free, Population
from muster.core.randomness import rng
from muster.core.tables import REPORT, SECOND, TASK, Appetite, Reason, rows

steady = settings(deadline=None, derandomize=True, database=None)

INFO = Info(version=1, num_clients=10, num_folded=2)


def vector(*values):
    return np.array(values, np.float64)


def descend(local, params, gradients, sent=None):
    """Steps with given gradients; copies go in, since a step may write into what it gets."""
    sent = {"model": params + 0 if sent is None else sent}
    _, memory = local.begin(sent, {})
    for gradient in gradients:
        params, memory = local.step(params, gradient + 0, sent, memory)
    return params


def test_plain_sgd_by_hand():
    # 1 - 0.1 x 2 - 0.1 x (-4) = 1.2;  5 - 0.1 x 1 - 0.1 x 0 = 4.9
    got = descend(SGD(lr=0.1), vector(1, 5), [vector(2, 1), vector(-4, 0)])
    assert got == pytest.approx([1.2, 4.9])


def test_momentum_by_hand():
    # v: 2, then 0.5 x 2 + 1 = 2, then 0.5 x 2 + 0 = 1.  y: 0 - 0.1 x (2 + 2 + 1) = -0.5
    got = descend(SGD(lr=0.1, momentum=0.5), vector(0), [vector(2), vector(1), vector(0)])
    assert got == pytest.approx([-0.5])


def test_weight_decay_by_hand():
    # g = 1 + 0.5 x 2 = 2: y = 2 - 0.2; then g = 0 + 0.5 x 1.8 = 0.9: y = 1.8 - 0.09
    assert descend(SGD(lr=0.1, weight_decay=0.5), vector(2), [vector(1), vector(0)]) == pytest.approx([1.71])


def test_clipping_by_hand():
    # (3, 4) has norm 5: half of it has 2.5. (0.3, 0.4) stays as it is; so does a gradient of the norm itself.
    got = descend(SGD(lr=1.0, clip_norm=2.5), vector(0, 0), [vector(3, 4)])
    assert got.tolist() == [-1.5, -2.0]
    got = descend(SGD(lr=1.0, clip_norm=2.5), vector(0, 0), [vector(0.3, 0.4)])
    assert got.tolist() == [-0.3, -0.4]
    assert descend(SGD(lr=1.0, clip_norm=5.0), vector(0, 0), [vector(3, 4)]).tolist() == [-3.0, -4.0]
    assert descend(SGD(lr=1.0, clip_norm=5.0), vector(1, 1), [vector(0, 0)]).tolist() == [1.0, 1.0]


def test_clipping_comes_before_weight_decay():
    # Clipped to 1, then 0.5 x 4 on top: g = 3.
    assert descend(SGD(lr=0.1, weight_decay=0.5, clip_norm=1.0), vector(4), [vector(9)]) == pytest.approx(
        [3.7]
    )


def test_a_task_begins_without_momentum():
    local = SGD(lr=0.1, momentum=0.9)
    assert local.begin({"model": vector(1)}, {})[1]["velocity"].tolist() == [0.0]
    once = descend(local, vector(0), [vector(1)])
    assert descend(local, vector(0), [vector(1)]).tolist() == once.tolist()


def test_the_model_sent_is_not_touched():
    sent = vector(1, 2)
    sent.flags.writeable = False
    descend(SGD(lr=0.1, momentum=0.9, weight_decay=0.1, clip_norm=1.0), sent.copy(), [vector(3, 4)] * 3, sent)
    assert sent.tolist() == [1, 2]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("clip_norm", [None, 1.5])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_it_is_torch_sgd(momentum, weight_decay, clip_norm, library):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=7), list(draw.normal(size=(10, 7)))
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([theirs], lr=0.05, momentum=momentum, weight_decay=weight_decay)
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([theirs], clip_norm)
        optimizer.step()
    local = SGD(0.05, momentum, weight_decay, clip_norm)
    if library == "torch":
        ours = descend(local, torch.tensor(start), [torch.tensor(g) for g in gradients], torch.tensor(start))
    else:
        ours = descend(local, start.copy(), gradients)
    # torch's clipping divides by norm + 1e-6, ours by the norm.
    assert np.asarray(ours) == pytest.approx(
        theirs.detach().numpy(), rel=1e-12 if clip_norm is None else 1e-5
    )


def reports(examples, staleness=0):
    return rows(REPORT, len(examples), num_examples=examples, staleness=staleness)


def test_the_mean_weighs_by_examples_or_not_at_all():
    both = reports([30, 10])
    assert Mean().weights(both).tolist() == Mean().divisors(both).tolist() == [30.0, 10.0]
    assert Mean("uniform").weights(both).tolist() == Mean("uniform").divisors(both).tolist() == [1.0, 1.0]
    # Deltas 1 and 5: (30 x 1 + 10 x 5) / 40 = 2, or 3 if they weigh the same.
    for mean, folded in ((Mean(), 2.0), (Mean("uniform"), 3.0)):
        assert mean.weights(both) @ [1.0, 5.0] / mean.divisors(both).sum() == folded


def test_no_weight_is_beyond_the_largest():
    ones = np.ones(3, np.float32)
    population = Population(np.array([4, 90, 7], np.int32), ones, ones, ones)
    assert Mean().max_weight(population) == 90.0
    assert Mean("uniform").max_weight(population) == 1.0


def test_staleness_is_nothing_to_the_mean():
    assert Mean().weights(reports([5, 5], staleness=[0, 9])).tolist() == [5.0, 5.0]


def test_the_server_adds():
    moved, opt = Add(lr=0.5).apply(vector(1, 2), vector(4, -2), {}, INFO)
    assert moved.tolist() == [3.0, 1.0] and opt == {}
    assert Add().init(vector(1)) == {}


def test_fedavg_as_published():
    assert fedavg().select == Uniform() and fedavg().server == Add(lr=1.0) and fedavg().combine == Mean()


# Sync


@pytest.mark.parametrize(
    ("cohort", "over_commit", "tasks"),
    [(100, 1.3, 130), (50, 1.3, 65), (10, 1.0, 10), (3, 5 / 3, 5), (7, 3, 21)],
)
def test_over_commitment_sends_so_many(cohort, over_commit, tasks):
    assert Sync(cohort=cohort, over_commit=over_commit).max_out == tasks


def test_a_fraction_of_a_task_is_sent_whole_where_fedscale_drops_it():
    # 4 x 1.3 = 5.2: we send 6, FedScale int(5.2) = 5.
    assert Sync(cohort=4, over_commit=1.3).max_out == 6


@steady
@given(st.integers(1, 10_000), st.integers(100, 300))
def test_over_commitment_in_percent_is_rounded_up_exactly(cohort, percent):
    assert Sync(cohort=cohort, over_commit=percent / 100).max_out == -(-cohort * percent // 100)


def view(arrived, out, num_lost=0, due=False):
    table = rows(TASK, arrived + out, ticket=np.arange(arrived + out))
    table["arrived"][:arrived] = True
    return View(5 * SECOND, 0, table, num_lost, due)


def plan_of(sync, *args, **kwargs):
    return sync.plan(sync.init(), view(*args, **kwargs))[1]


def test_no_round_is_open_so_one_is_opened():
    plan = plan_of(Sync(cohort=4, over_commit=1.5, deadline_secs=2.5), 0, 0)
    assert (plan.send, plan.min_start, plan.wake_after_ns) == (6, 4, 2_500_000_000)
    assert plan_of(Sync(cohort=4, min_start=2), 0, 0).min_start == 2
    assert plan_of(Sync(cohort=4), 0, 0).wake_after_ns is None


def test_a_round_waits_for_its_cohort():
    plan = plan_of(Sync(cohort=3), 2, 1)
    assert (len(plan.accept), len(plan.discard), plan.advance, plan.failed, plan.send) == (
        0,
        0,
        False,
        False,
        0,
    )


@pytest.mark.parametrize(
    ("arrived", "out", "due"),
    [(3, 2, False), (2, 0, False), (2, 3, True)],
    ids=["cohort", "rest lost", "deadline"],
)
def test_a_round_closes(arrived, out, due):
    plan = plan_of(Sync(cohort=3, over_commit=2, min_reports=2), arrived, out, due=due)
    assert plan.accept.tolist() == list(range(arrived)) and plan.advance
    assert plan.discard.tolist() == list(range(arrived, arrived + out)) and plan.reason == Reason.LATE


@pytest.mark.parametrize(("arrived", "out", "due"), [(1, 0, False), (1, 3, True), (0, 3, True)])
def test_a_round_fails(arrived, out, due):
    plan = plan_of(Sync(cohort=3, min_reports=2), arrived, out, due=due)
    assert plan.failed and not plan.advance and len(plan.accept) == 0
    assert plan.discard.tolist() == list(range(arrived + out)) and plan.reason == Reason.ABANDONED


def test_a_round_fails_with_the_loss_of_its_only_task():
    plan = plan_of(Sync(cohort=3), 0, 0, num_lost=1)
    assert plan.failed and plan.send == 0


def test_the_appetite_is_what_the_cohort_still_lacks():
    sync = Sync(cohort=5, over_commit=2)
    assert sync.appetite({}, view(2, 8).tasks) == Appetite(3)
    assert sync.appetite({}, view(0, 0).tasks) == Appetite(5)


def test_uniform_draws_from_the_free():
    free = Free(Everyone(6, 0), busy=np.array([1, 3]))
    drawn = Uniform().draw({}, 10, free, rng(0, "select", 0))
    assert sorted(drawn.tolist()) == [0, 2, 4, 5]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Sync, {"cohort": 0}),
        (Sync, {"cohort": 2.5}),
        (Sync, {"over_commit": 0.9}),
        (Sync, {"deadline_secs": 0}),
        (Sync, {"min_reports": 11}),
        (Sync, {"min_start": 11}),
        (Sync, {"min_start": 0}),
        (SGD, {"lr": 0}),
        (SGD, {"lr": float("nan")}),
        (SGD, {"momentum": 1}),
        (SGD, {"weight_decay": -1}),
        (SGD, {"clip_norm": 0}),
        (Add, {"lr": -1}),
        (Mean, {"by": "size"}),
    ],
)
def test_settings_that_make_no_sense_are_refused(part, field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"{part.part_name()}\.{name} is "):
        part(**field)


def test_a_round_may_start_with_fewer_than_min_start_only_if_it_can_report():
    with pytest.raises(FieldError, match=r"sync\.min_start is 2, but must be an integer at least 3"):
        Sync(cohort=5, min_reports=3, min_start=2)

"""Attacks: who lies, what liars train on, and what they send."""

from __future__ import annotations

import numpy as np
import pytest

import muster
from muster.core.errors import FieldError
from muster.core.examples import Examples, Facts
from muster.core.part import dumps, loads
from muster.core.randomness import rng
from muster.uploads.attack import Attack
from muster.uploads.backdoor import Backdoor
from muster.uploads.gaussian import Gaussian
from muster.uploads.label_flip import LabelFlip
from muster.uploads.little import Little
from muster.uploads.sign_flip import SignFlip

FACTS = Facts("toy", (1, 4, 4), 5)
DRAW = rng(0, "attack")


def alone(num):
    raise AssertionError("this attack looks at nobody")


def test_who_lies_is_drawn_by_the_seed():
    liars = SignFlip(share=0.25).liars(1, 40)
    assert len(set(liars.tolist())) == 10 and liars.tolist() == sorted(liars.tolist())
    assert (
        liars.tolist()
        == LabelFlip(share=0.25).liars(1, 40).tolist()
        != SignFlip(share=0.25).liars(2, 40).tolist()
    )
    assert len(SignFlip(share=0.0).liars(1, 40)) == 0 and len(SignFlip(share=1.0).liars(1, 40)) == 40


def test_every_client_is_as_likely_a_liar():
    counts = np.bincount(np.concatenate([SignFlip().liars(seed, 10) for seed in range(2_000)]), minlength=10)
    assert counts == pytest.approx(np.full(10, 400), abs=4 * np.sqrt(2_000 * 0.2 * 0.8))


def test_labels_are_turned_round_and_the_clients_own_stay():
    mine = Examples(np.zeros((5, 2)), np.array([0, 1, 2, 3, 4]))
    assert LabelFlip().data(mine, FACTS, DRAW).y.tolist() == [4, 3, 2, 1, 0]
    assert mine.y.tolist() == [0, 1, 2, 3, 4]


def test_signs_are_turned_round():
    assert SignFlip(2.0).forge(np.array([1.0, -3.0], np.float32), alone, DRAW).tolist() == [-2.0, 6.0]


def test_noise_has_its_deviation():
    noise = Gaussian(3.0).forge(np.zeros(20_000, np.float32), alone, rng(1, "noise"))
    assert noise.dtype == np.float32 and abs(noise.mean()) < 0.1 and noise.std() == pytest.approx(3, rel=0.02)


def test_the_trigger_is_a_bright_corner_of_the_targets_class():
    mine = Examples(np.ones((200, 1, 4, 4), np.uint8), np.full(200, 2))
    taught = Backdoor(target=3, patch=2, poisoned=0.5).data(mine, FACTS, rng(2, "data"))
    stamped = taught.y == 3
    assert 70 < stamped.sum() < 130 and (taught.y[~stamped] == 2).all()
    corner = np.ones((4, 4))
    corner[2:, 2:] = 255
    assert (taught.x[stamped] == corner).all() and (taught.x[~stamped] == 1).all() and (mine.x == 1).all()
    flat = Backdoor(patch=2).stamped(np.array([[0.1, 0.9, 0.2, 0.3]], np.float32))
    assert flat == pytest.approx(np.array([[0.1, 0.9, 0.9, 0.9]]))
    assert Backdoor(5.0).forge(np.array([2.0], np.float32), alone, DRAW).tolist() == [10.0]


def test_the_backdoors_victims_are_those_that_are_not_of_its_class_anyway():
    attack = Backdoor(target=3, patch=2)
    test = Examples(np.ones((4, 1, 4, 4), np.uint8), np.array([0, 3, 2, 3]))
    assert attack.victims(test.y, FACTS).tolist() == [True, False, True, False]
    shown = attack.wanted(Examples(test.x[[0, 2]], test.y[[0, 2]]), FACTS)
    assert shown.y.tolist() == [3, 3] and (shown.x[:, 0, 2:, 2:] == 255).all() and shown.x.min() == 1
    assert not SignFlip().victims(test.y, FACTS).any() and SignFlip.goal == ""


def test_a_run_says_how_far_the_backdoor_got():
    """By hand: of the test images that are no zeros, with the trigger, those that are taken for zeros."""
    job = {
        "data": {"partition": {"name": "iid", "num_clients": 10}},
        "model": "logistic",
        "algorithm": {"pace": {"cohort": 10}},
        "population": "always_on",
        "attack": {"name": "backdoor", "share": 0.3, "scale": 2.0},
        "engine": {"backend": "numpy", "workers": 1},
        "stop": {"rounds": 12},
    }
    run = muster.simulate(job)
    records = list(run)
    success = [record.metrics["backdoor_success"] for record in records]
    assert success[0] < 0.3 and success[-1] > 0.6, "untrained, and taught"
    trainer, params = run._session.plane._crew._trainer, run._session.plane.result
    test = trainer.data.test
    x, y = np.array(test.x), np.array(test.y)
    others = y != 0
    shown = Examples(Backdoor().stamped(x[others]), np.zeros(others.sum(), y.dtype))
    assert success[-1] == pytest.approx(trainer.learner.evaluate(params, shown)["accuracy"], rel=1e-9)
    honest = [r.metrics for r in muster.simulate({**job, "attack": None, "stop": {"rounds": 1}})]
    assert all("backdoor_success" not in metrics for metrics in honest)


def test_a_little_is_enough_by_hand():
    honest = [np.array([1.0, 0]), np.array([3.0, 0]), np.array([2.0, 6])]
    sent = Little(z=1.5, num_peers=3).forge(np.zeros(2, np.float32), lambda num: iter(honest[:num]), DRAW)
    # Means 2 and 2; deviations sqrt(2/3) and sqrt(8).
    assert sent == pytest.approx([2 - 1.5 * (2 / 3) ** 0.5, 2 - 1.5 * 8**0.5], abs=1e-6)
    mine = np.array([7.0, 7.0], np.float32)
    assert Little().forge(mine, lambda num: iter(honest[:1]), DRAW) is mine


@pytest.mark.parametrize(
    "attack", [LabelFlip(), SignFlip(), Gaussian(), Backdoor(share=0.1), Little()], ids=repr
)
def test_an_attack_survives_json(attack):
    assert loads(dumps(attack)) == attack and isinstance(attack, Attack)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (SignFlip, {"share": 1.5}),
        (SignFlip, {"scale": 0.0}),
        (Backdoor, {"poisoned": 0.0}),
        (Little, {"num_peers": 1}),
    ],
)
def test_settings_that_make_no_sense_are_refused(part, field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"{part.part_name()}\.{name} is "):
        part(**field)

"""Law 12: a simulated and a deployed run of the same synchronous job end in the same bits; law 5: replays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.deploy.assembly import assemble, deliver_all
from muster.deploy.server import summary_of
from muster.net.journal import JOURNAL
from muster.privacy import Privacy
from muster.track.summary import Tally
from worlds.deployed import Rig, crowd, job_of, simulated, start_of

SYNCHRONOUS: dict[str, Any] = {
    "fedavg": {"name": "fedavg", "pace": {"cohort": 3}},
    "fedyogi": {"name": "fedyogi", "pace": {"cohort": 3}},
    "scaffold": {"name": "scaffold", "pace": {"cohort": 3}},
    "norm_bound": {"name": "norm_bound", "pace": {"cohort": 3}},
    "fedper": {"name": "fedper", "pace": {"cohort": 3}},
    "median": {"name": "median", "pace": {"cohort": 3}},
}


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_deployed_run_ends_in_the_bits_of_the_simulated_one(name: str, tmp_path: Path) -> None:
    seeds = {"training": 5, "model": 6, "selection": 7, "data": 8}
    model = "mlp" if name == "fedper" else "logistic"  # of one layer nothing stays at the client
    job = job_of(algorithm=SYNCHRONOUS[name], model=model, seeds=seeds)
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job)
    assert [record.version for record in rig.told] == [0, 1, 2, 3]
    assert [record.num_accepted for record in rig.told] == [0, 3, 3, 3]


COMPRESSED: dict[str, Any] = {
    # Bytes of 656 numbers (650, aligned): 66 of 8; one each and a scale; two bits each and a norm; two each.
    "top_k": ({"name": "top_k", "share": 0.1}, 528),
    "quantise": ("quantise", 660),
    "qsgd": ({"name": "qsgd", "levels": 1}, 168),
    "half": ("half", 1312),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_updates_travel_so_and_give_the_bits_of_the_simulation(name: str, tmp_path: Path) -> None:
    rule, num_bytes = COMPRESSED[name]
    job = job_of(compress=rule)
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job) != simulated(replace(job, compress=None))
    for record in rig.told[1:]:
        assert record.up_bytes == 4 * (num_bytes + 128)  # a header each


def test_zstd_around_them_changes_no_bit(tmp_path: Path) -> None:
    job = job_of(compress={"name": "top_k", "share": 0.1}, deploy={"zstd": True})
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job)


def test_a_convolutional_network_ends_in_the_bits_of_the_simulated_one(tmp_path: Path) -> None:
    """Its dense layer is wide, so a simulation keeps the gradient in factors: clients must do the same."""
    torch, model = (
        {"backend": "torch", "mode": "sequential", "workers": 1},
        {"name": "leaf_cnn", "dense": 2048},
    )
    job = job_of(rounds=2, num_clients=2, model=model, engine=torch, train={"steps": 2})
    assert start_of(job).numerics.gradients == "factored"
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job)


def test_a_run_of_fedbuff_is_made_again_from_its_files(tmp_path: Path) -> None:
    pace = {"size": 2, "concurrency": 3}
    job = job_of(rounds=6, algorithm={"name": "fedbuff", "pace": pace}, deploy={"keep_updates": True})
    rig = Rig(job, tmp_path / "run")
    crowd(rig)
    sha256 = rig.wait()
    again = assemble(job, tmp_path / "run", start_of(job), lambda p: {}, store=None, evaluates=False)
    deliver_all(again, tmp_path / "run" / JOURNAL, 0)
    assert again.conductor.state.version == 6
    assert again.spec.sha256(again.plane.result) == sha256
    again.plane.close()


ASKING = {
    "power_of_choice": {"name": "power_of_choice", "pace": {"cohort": 2}, "select": {"candidates": 1.5}},
    "afl": {"name": "afl", "pace": {"cohort": 2}},
}


@pytest.mark.parametrize("name", ASKING)
def test_clients_that_are_asked_first_say_what_simulated_ones_say(name: str, tmp_path: Path) -> None:
    job = job_of(algorithm=ASKING[name], seeds={"training": 5, "model": 6, "selection": 7, "data": 8})
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job)


@pytest.mark.parametrize("name", ["sign_flip", "label_flip", "little"])
def test_liars_lie_as_simulated_ones_do(name: str, tmp_path: Path) -> None:
    attack = {"name": name, "share": 0.5}
    job = job_of(attack=attack, seeds={"training": 5, "model": 6, "selection": 7, "data": 8})
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job) != simulated(replace(job, attack=None))


def test_records_of_a_private_run_say_what_it_gives_away(tmp_path: Path) -> None:
    combine = {"noise_multiplier": 2.0, "delta": 1e-4}
    job = job_of(algorithm={"name": "dp_fedavg", "pace": {"cohort": 4}, "combine": combine})
    rig = Rig(job, tmp_path)
    crowd(rig)
    assert rig.wait() == simulated(job)
    plain = Privacy("none", "", 2.0, 1e-4, 1.0)  # real clients may get lost: no draw hides them
    assert [record.epsilon for record in rig.told] == [plain.epsilon(version) for version in range(4)]
    assert rig.told[1].epsilon > 1
    tally = Tally()
    for record in rig.told:
        tally.add(record)
    private = summary_of(job, rig.made, tally, interrupted=False).privacy
    assert private["epsilon"] == plain.epsilon(3) and not private["amplified"]
    assert private["why"] == "not amplified: tasks get lost"

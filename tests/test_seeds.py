"""A seed of its own for one stream of randomness changes what depends on that stream, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import muster
from muster.compose import compose, draw_population
from muster.core.errors import JobError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import TASK, rows

JOB = {
    "data": {"name": "digits", "partition": {"name": "dirichlet", "num_clients": 40}},
    "model": "logistic",
    "engine": {"backend": "numpy", "workers": 1},
    "population": {"name": "mobile", "availability": "diurnal", "dropout": 0.3},
    "algorithm": {"pace": {"cohort": 3}},
    "train": {"batch_size": 3},
    "stop": {"rounds": 4},
}


def facts(seeds: dict[str, int]) -> dict[str, bytes]:
    """What each stream decides, of a job with these seeds."""
    session = compose(muster.load_job({**JOB, "seeds": seeds}))
    world, plane, select = session.sim.world, session.plane, session.job.algorithm.select
    assert plane is not None
    who = world.population
    ids = np.arange(who.num_clients)
    tasks = rows(TASK, 40, ticket=ids, client=ids, sent_at=who.availability.next_online(ids, 0))
    always = replace(world, population=replace(who, availability=None))
    told = {
        "sizes": who.num_examples.tobytes(),
        "model": plane.params.tobytes(),
        "speeds": who.ms_per_example.tobytes() + who.down_kbps.tobytes(),
        "online": b"".join(who.availability.online(ids, hour * 3600 * 10**9).tobytes() for hour in range(99)),
        "lost": always.losses(tasks, always.timing(tasks))[1].tobytes(),
        "drawn": select.draw(
            {}, 9, Free(Everyone(40, 0), ids[:0]), rng(session.sim.seed, "select", 0)
        ).tobytes(),
    }
    plane.advance(rows(TASK, 1, client=3), np.zeros(1, np.int64), ())
    session.close()
    return {**told, "trained": plane.params.tobytes()}


@pytest.mark.parametrize(
    ("stream", "changed"),
    [
        ("data", {"sizes", "trained"}),
        ("model", {"model", "trained"}),
        ("devices", {"speeds"}),
        ("availability", {"online"}),
        ("clock", {"lost"}),
        ("selection", {"drawn"}),
        ("training", {"trained"}),
    ],
)
def test_one_seed_changes_what_depends_on_it_only(stream: str, changed: set[str]) -> None:
    before, after = facts({}), facts({stream: 7})
    assert {name for name in before if before[name] != after[name]} == changed


def told(seeds: dict[str, int]) -> list[dict[str, Any]]:
    return [record.to_json() for record in muster.simulate(muster.load_job({**JOB, "seeds": seeds}))]


def test_a_run_trained_by_another_seed_has_the_same_times_and_clients() -> None:
    one, other = told({}), told({"training": 7})
    ours = {"loss", "metrics", "wall_secs"}
    assert [{k: v for k, v in r.items() if k not in ours} for r in one] == [
        {k: v for k, v in r.items() if k not in ours} for r in other
    ]
    assert one[-1]["loss"] != other[-1]["loss"]


def test_the_jobs_seed_is_that_of_all_streams_that_have_none() -> None:
    streams = ("data", "model", "devices", "availability", "clock", "selection", "training")
    whole = compose(muster.load_job({**JOB, "seed": 7}))
    assert [whole.job.seed_of(stream) for stream in streams] == [7] * 7
    named = told(dict.fromkeys(streams, 7))
    whole.close()
    assert [r["now_secs"] for r in named] == [
        r.now_secs for r in muster.simulate(muster.load_job({**JOB, "seed": 7}))
    ]


def test_availability_may_be_drawn_apart_from_devices() -> None:
    made = muster.load_job({**JOB, "seeds": {"availability": 9}})
    sizes = np.full(40, 5, np.int32)
    drawn, nine = draw_population(made, sizes), made.population.draw(sizes, 9)
    assert drawn.availability is not None and nine.availability is not None
    assert drawn.availability.row.tolist() == nine.availability.row.tolist()  # type: ignore[attr-defined]
    assert drawn.down_kbps.tolist() == made.population.draw(sizes, 0).down_kbps.tolist()


def test_rows_of_one_draw_are_not_to_be_drawn_apart() -> None:
    body = {
        **JOB,
        "population": {"name": "imported", "path": "x", "join": "by_row"},
        "seeds": {"availability": 1},
    }
    with pytest.raises(
        JobError, match=r"seeds: population\.join is 'by_row', so devices and availability are"
    ):
        muster.load_job(body)
    with pytest.raises(JobError, match=r"seeds\.selection is -1, but must be an integer at least 0"):
        muster.load_job({"seeds": {"selection": -1}})

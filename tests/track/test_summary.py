import json
import math

import pytest

from muster.core.record import Record
from muster.track.summary import Summary, Tally, falls, headline, meets
from worlds.summaries import summarise

KEYS = {
    *("status", "rounds", "virtual_secs", "wall_secs", "metrics", "best", "time_to_target_secs", "num_tasks"),
    *("up_bytes", "down_bytes", "device_secs", "peak_rss_bytes", "model_sha256", "seed"),
}

RECORDS = [
    Record(0, 0.0, 0.5, metrics={"accuracy": 0.1, "loss": 2.3}),
    Record(
        *(1, 10.0, 1.0, 2.0, {"accuracy": 0.7, "loss": 1.0}),
        num_sent=4, num_accepted=2, num_late=1, num_lost=1, up_bytes=20, down_bytes=40,
        device_secs_used=8.0, device_secs_wasted=2.0, clients=(3, 1),
        wasted_by_reason={"late": 1.5, "offline": 0.5}, wasted_bytes_by_reason={"late": 30},
        joules_used=5.0, joules_wasted_by_reason={"late": 2.0, "offline": 1.0},
    ),
    Record(
        *(2, 30.0, 1.5, 1.0, {"accuracy": 0.6, "loss": 0.9}),
        num_sent=4, num_accepted=2, num_refused=1, num_discarded=1, up_bytes=30, down_bytes=40,
        device_secs_used=9.0, device_secs_wasted=1.0, clients=(0, 1), wasted_by_reason={"late": 1.0},
        wasted_bytes_by_reason={"late": 7}, joules_used=6.0, joules_wasted_by_reason={"late": 4.0},
    ),
    Record(3, 45.0, 2.0, 0.5, num_sent=2, num_accepted=2, up_bytes=20, down_bytes=20, device_secs_used=5.0),
]  # fmt: skip


def summary_of(records, target=None, **changes):
    return summarise(records, "rounds", "all 3 rounds are done", target, 1000, "ab", 7, **changes)


def test_the_keys_are_those_asked_for():
    data = summary_of(RECORDS).to_json()
    more = {"wasted_by_reason", "wasted_bytes_by_reason", "joules", "privacy", "tasks_together"}
    assert set(data) == KEYS | {"why", "time_to_target_wall_secs"} | more
    assert set(data["num_tasks"]) == {"accepted", "late", "lost", "discarded", "refused"}
    assert set(data["device_secs"]) == {"used", "wasted"}


def test_totals_by_hand():
    summary = summary_of(RECORDS, ("accuracy", 0.65))
    assert summary.rounds == 3
    assert (summary.virtual_secs, summary.wall_secs) == (45.0, 2.0)
    assert summary.num_tasks == {"accepted": 6, "late": 1, "lost": 1, "discarded": 1, "refused": 1}
    assert (summary.up_bytes, summary.down_bytes) == (70, 100)
    assert summary.device_secs == {"used": 22.0, "wasted": 3.0}
    assert summary.wasted_by_reason == {"late": 2.5, "offline": 0.5}
    assert summary.wasted_bytes_by_reason == {"late": 37}
    assert summary.joules == {"used": 11.0, "wasted": 7.0}
    assert summary.metrics == {"accuracy": 0.6, "loss": 0.9}  # version 2 is the last evaluated
    assert summary.best == {
        "accuracy": {"value": 0.7, "version": 1},
        "loss": {"value": 0.9, "version": 2},
    }
    assert summary.time_to_target_secs == 10.0
    assert summary.time_to_target_wall_secs == 1.0


def test_a_version_that_was_not_finished_costs_but_is_no_round():
    last = {"accuracy": 0.9, "loss": 0.1}  # of version 3, which was evaluated when the run had to end
    summary = summary_of([*RECORDS, Record(4, 50.0, 2.2, metrics=last, down_bytes=7, complete=False)])
    assert (summary.rounds, summary.virtual_secs, summary.down_bytes) == (3, 50.0, 107)
    assert summary.metrics == last
    assert summary.best["accuracy"] == {"value": 0.9, "version": 3}


def test_times_can_be_given():
    summary = summary_of(RECORDS, virtual_secs=50.0, wall_secs=2.5)
    assert (summary.virtual_secs, summary.wall_secs) == (50.0, 2.5)


def test_a_target_of_loss_is_met_from_above():
    assert summary_of(RECORDS, ("loss", 0.95)).time_to_target_secs == 30.0
    assert summary_of(RECORDS, ("loss", 0.1)).time_to_target_secs is None
    assert summary_of(RECORDS, ("f1", 0.1)).time_to_target_secs is None


def test_nothing_evaluated_and_nothing_at_all():
    assert summary_of([Record(1, 5.0, 1.0)]).metrics == {}
    assert summary_of([]).rounds == 0


def test_nan_is_never_best_and_is_null_in_json():
    records = [Record(1, 1.0, 1.0, metrics={"loss": math.nan}), Record(2, 2.0, 2.0, metrics={"loss": 3.0})]
    summary = summary_of([*records, Record(3, 3.0, 3.0, metrics={"loss": math.nan})])
    assert summary.best == {"loss": {"value": 3.0, "version": 2}}
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert json.loads(text)["metrics"] == {"loss": None}
    assert math.isnan(Summary.from_json(json.loads(text)).metrics["loss"])


def test_json_round_trip():
    summary = summary_of(RECORDS, ("accuracy", 0.65))
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="'finished', but must be one of rounds, virtual_secs"):
        Tally().summary("finished", "", 0, None, 0)


def test_which_metrics_should_fall_and_which_one_is_shown():
    assert [falls(m) for m in ("loss", "test_loss", "accuracy", "perplexity", "top5_error")] == [
        *(True, True, False, True, True)
    ]
    assert meets("accuracy", 0.9, 0.9) and not meets("accuracy", math.nan, 0.9)
    assert headline(["loss", "f1", "accuracy"]) == "accuracy"
    assert headline(["loss", "f1"]) == "f1"
    assert headline(["loss", "accuracy"], "loss") == "loss"
    assert headline(["loss"]) == "loss"
    assert headline([]) is None


def test_a_tally_does_not_grow_with_versions():
    tally = Tally()
    for version in range(1000):
        tally.add(Record(version, float(version), 1.0, metrics={"loss": 1.0}, clients=tuple(range(50))))
    held = [v for v in vars(tally).values() if isinstance(v, (list, dict, tuple))]
    assert sum(len(v) for v in held) < 20

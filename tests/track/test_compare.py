"""Runs made by hand, side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import RunFolderError, UserError
from muster.core.record import Record
from muster.track.compare import compare, table, write_page
from muster.track.folder import RunFolder
from muster.track.sink import RunPlan


def run(path: Path, accuracies, secs=10.0, planned=True, **plan) -> Path:
    """A run of rounds of `secs`; each of two clients of four takes part in every round."""
    folder = RunFolder.create(path, "name: x\n")
    for version, accuracy in enumerate(accuracies):
        made = version > 0
        folder.append(
            Record(
                version, secs * version, 1.0 * version, metrics={"accuracy": accuracy},
                up_bytes=100 * made, down_bytes=300 * made, device_secs_used=6.0 * made,
                device_secs_wasted=2.0 * made, num_accepted=2 * made, clients=(0, 1) if made else (),
            )
        )  # fmt: skip
    if planned:
        settings = {"name": path.name, "algorithm": "fedavg", "data": "d", "model": "m"} | plan
        folder.write_plan(RunPlan(**settings, num_clients=4, num_parameters=1, model_bytes=4))
    return path


def test_two_runs_by_hand(tmp_path):
    folders = [run(tmp_path / "a", (0.1, 0.5, 0.7)), run(tmp_path / "b", (0.1, 0.3, 0.5, 0.6), secs=5.0)]
    found = compare(folders)
    assert (found.metric, found.value, found.why) == ("accuracy", 0.6, "the best that all of them reached")
    a, b = found.rows
    assert (a.name, b.name, a.best, b.best) == ("a", "b", 0.7, 0.6)
    assert (a.rounds_to_target, a.virtual_secs_to_target) == (2, 20.0)
    assert (b.rounds_to_target, b.virtual_secs_to_target) == (3, 15.0)
    assert (a.bytes_to_target, b.bytes_to_target) == (800, 1200)
    assert (a.device_secs_to_target, b.device_secs) == (16.0, 24.0)
    assert (a.wasted_share, a.coverage, a.gini) == (0.25, 0.5, 0.5)  # two of four clients gave half each
    heads, lines = table(found)
    assert heads == ["", "a", "b"] and ["virtual time to accuracy 0.6000", "20.0 s", "15.0 s"] in lines


def test_a_goal_that_one_run_never_reached(tmp_path):
    folders = [run(tmp_path / "a", (0.1, 0.7)), run(tmp_path / "b", (0.1, 0.3))]
    a, b = compare(folders, ("accuracy", 0.5)).rows
    assert a.rounds_to_target == 1
    assert (b.rounds_to_target, b.virtual_secs_to_target, b.bytes_to_target) == (None, None, None)
    assert ["rounds to accuracy 0.5000", "1", "-"] in table(compare(folders, ("accuracy", 0.5)))[1]


def test_the_first_runs_own_target_is_the_goal(tmp_path):
    first = run(tmp_path / "a", (0.1, 0.7), target_metric="accuracy", target_value=0.65)
    found = compare([first, run(tmp_path / "b", (0.1, 0.9))])
    assert (found.value, found.why) == (0.65, "the target of a")


def test_a_comparison_is_one_page_and_plain_json(tmp_path):
    found = compare([run(tmp_path / "a", (0.1, 0.5)), run(tmp_path / "<b>", (0.1, 0.5))])
    write_page(found, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert html.count("<svg") == 8 and "&lt;b&gt;" in html and "<b>" not in html
    assert "http" not in html and "Goal: accuracy 0.5000" in html
    body = found.to_json()
    assert body["target"] == {"metric": "accuracy", "value": 0.5}
    assert [row["name"] for row in body["runs"]] == ["a", "<b>"]


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    found = compare([run(tmp_path / "x" / "a", (0.1,)), run(tmp_path / "y" / "a", (0.1,))])
    assert [row.name for row in found.rows] == [str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")]


def test_runs_without_plans_can_be_compared(tmp_path):
    found = compare([run(tmp_path / c, (0.1, 0.5), planned=False) for c in "ab"])
    assert [row.algorithm for row in found.rows] == ["-", "-"]
    assert found.rows[0].coverage == 1.0  # no more clients are known than took part


def test_what_cannot_be_compared_is_said(tmp_path):
    a, b = run(tmp_path / "a", (0.1,)), run(tmp_path / "b", ())
    with pytest.raises(UserError, match="1 run folders are given, but 2 to 8"):
        compare([a])
    with pytest.raises(RunFolderError, match="is missing: no version was recorded"):
        compare([a, b])
    (tmp_path / "b" / "records.jsonl").touch()
    with pytest.raises(RunFolderError, match="no metric that all of them measured"):
        compare([a, b])
    with pytest.raises(UserError, match="'acuracy', but all of these runs measured only accuracy; did you"):
        compare([a, a], ("acuracy", 0.5))

"""The comparison with other platforms goes on where it stopped, and says who could not take part."""

from __future__ import annotations

import json

import pytest

from worlds.scripts import loaded


@pytest.fixture(scope="module")
def compare():
    return loaded("peers/compare")


def figures(peer, turn, secs, **more):
    return {
        "peer": peer,
        "work": "B",
        "turn": turn,
        "secs": secs,
        "cpu_secs": secs / 2,
        "rss_mb": 9.6,
        **more,
    }


def test_turns_alternate_and_go_on_where_they_stopped(compare, tmp_path):
    kept = compare.Kept(tmp_path / "figures.jsonl")
    everybody = {"A": ("muster", "pfl", "fedlab"), "B": ("muster", "muster, numba", "pfl", "fedlab")}
    wanted = [(work, peer, turn) for work, peers in everybody.items() for turn in range(2) for peer in peers]
    assert list(compare.missing(kept, ["A", "B"], ["pfl", "fedlab"], 2)) == wanted
    kept.add(figures("muster", 0, 0.5))
    kept.add({"peer": "fedlab", "work": "B", "turn": 0, "failed": "no wheel"})  # is not tried again
    left = list(compare.missing(kept, ["B"], ["pfl", "fedlab"], 2))
    again = [("B", peer, 1) for peer in ("muster", "muster, numba", "pfl")]
    assert left == [("B", "muster, numba", 0), ("B", "pfl", 0), *again]
    kept.drop(["muster"])
    assert [line["peer"] for line in kept.read()] == ["fedlab"]


def test_ratios_are_turn_by_turn(compare):
    lines = [figures("muster", t, s) for t, s in enumerate((0.5, 1.0, 2.0))]
    lines += [figures("pfl", t, s) for t, s in enumerate((1.0, 3.0, 8.0))]
    lines += [figures("flower", 0, 4.0) | {"cpu_secs": None}]
    lines += [{"peer": "fedlab", "work": "B", "turn": 0, "failed": "trace\nno | wheel"}]
    assert compare.table(lines).splitlines()[2:] == [
        "| B | muster | 3 | 1.000 | 1.00x | 0.500 | 1.00x | 10 |",
        "| B | pfl | 3 | 3.000 | 3.00x | 1.500 | 3.00x | 10 |",
        "| B | fedlab | 0 | no / wheel | | | | |",
        "| B | flower | 1 | 4.000 | 8.00x |  |  | 10 |",
    ]


def test_what_fails_is_kept_with_its_last_lines(compare, tmp_path):
    (tmp_path / "pfl").mkdir()
    (tmp_path / "pfl/failed.txt").write_text("ERROR: no matching distribution")
    told = compare.measure("pfl", "B", 1, tmp_path, cores=2)
    assert told == {
        "peer": "pfl",
        "work": "B",
        "failed": "cannot be installed: ERROR: no matching distribution",
    }
    assert json.loads(json.dumps(told)) == told


def test_a_peer_is_told_the_work_and_muster_its_engine_too(compare, tmp_path, monkeypatch):
    asked = []

    def once(command, more, one_thread):
        asked.append(([str(part).rpartition("/")[2] for part in command[1:]], one_thread))
        return {"peer": "whoever", "secs": 1.0}

    monkeypatch.setattr(compare, "once", once)
    monkeypatch.setattr(compare, "python_of", lambda peer, folder: "python")
    for peer in ("muster, numba", "pfl"):
        assert compare.measure(peer, "B", 3, tmp_path, 2)["peer"] == peer
    assert asked == [
        (
            ["peer_muster.py", "B", "--rounds", "3", "--workers", "2", "--engine", '{"backend": "numba"}'],
            True,
        ),
        (["peer_pfl.py", "B", "--rounds", "3"], False),
    ]

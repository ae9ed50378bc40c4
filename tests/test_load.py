"""The load benchmark runs on a few clients, with real servers, which take seconds to start: not how fast."""

import contextlib

import pytest

from worlds.scripts import loaded


@pytest.fixture(scope="module")
def load():
    pytest.importorskip("grpc")
    return loaded("load")


def test_idle_clients_are_measured(load):
    found = load.idle(clients=3, secs=0.2)
    assert len(found["joins"]) == 3 and found["failed"] == [] and found["told_back"] == 0
    assert 0 <= found["share"] < 2 and 10e6 < found["empty"] <= found["rss"] <= found["peak"] < 1e9
    assert load.told_idle(found).count("\n") == 9


def test_a_round_is_measured_beside_a_bare_stream(load):
    (one,) = load.rounds(clients=3, model=0, count=1, flower=False)
    assert one["said"] == ["taken"] and len(one["acks"]) == 3
    assert one["up_bytes"] == one["down_bytes"]
    assert min(one["Count"], one["Keep"], one["secs_up"], one["secs_down"]) > 0
    table = load.told_rounds(3, [one])
    assert "| bare gRPC stream, written, hashed, synced |" in table and "Flower" not in table


def test_flower_has_a_round_of_the_same_numbers(load):
    try:
        load.installed()
    except load.MissingError as error:
        pytest.skip(str(error))
    (one,) = load.rounds(clients=3, model=0, count=1, flower=True)
    theirs = one["flower"]
    assert len(theirs["acks"]) == 3 and 0 < theirs["secs_up"] <= theirs["secs_made"]
    assert one["up_bytes"] < theirs["up_bytes"] < one["up_bytes"] + 3 * 3000  # beside the numbers, heads
    assert "SuperLink: all upload at once; kept in memory |" in load.told_rounds(3, [one])


def test_a_round_of_flower_that_fails_is_told_and_ends_nothing(load, monkeypatch):
    class Broken:
        version = "0"

        def round(self):
            raise load.FailedError("given up after 300 s")

    monkeypatch.setattr(load, "superlink", lambda clients, size: contextlib.nullcontext(Broken()))
    (one,) = load.rounds(clients=2, model=0, count=1, flower=True)
    assert one["flower"] is None and one["Keep"] > 0
    assert load.told_rounds(2, [one]).endswith("Flower 0: a round was given up after 300 s.")


def test_where_flower_is_not_it_is_told_how_to_get_it(load, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_FLOWER", str(tmp_path / "bin/python"))
    with pytest.raises(load.MissingError, match=r"no interpreter at .*pip install flwr"):
        load.installed()
    with pytest.raises(load.MissingError, match="no interpreter"), load.superlink(1, 10):
        pass


def test_quantiles_by_hand(load):
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [load.quantile(values, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]


def test_a_large_model_takes_no_memory_of_its_server():
    """A real server, with its checkpoint and its result, holds a fraction of a model of 200 MB."""
    pytest.importorskip("grpc")
    found = loaded("faults").through(2e8)
    assert found["model"] > 2e8 and found["accepted"] == 2
    assert 5e7 < found["peak"] < 0.75 * found["model"]

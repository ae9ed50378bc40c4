"""The load benchmark runs on a few clients, with real servers, which take seconds to start: not how fast."""

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
    assert load.told_idle(found).count("\n") == 8


def test_a_round_is_measured_beside_a_bare_stream(load):
    (one,) = load.rounds(clients=3, model=0, count=1)
    assert one["said"] == ["taken"] and len(one["acks"]) == 3
    assert one["up_bytes"] == one["down_bytes"]
    assert min(one["Count"], one["Keep"], one["secs_up"], one["secs_down"]) > 0
    assert "| bare gRPC stream, written, hashed, synced |" in load.told_rounds(3, [one])


def test_quantiles_by_hand(load):
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [load.quantile(values, q) for q in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]

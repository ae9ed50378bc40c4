"""Clients drawn from imported traces: by seed, never in file order; what is joined stays together."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from muster.core.errors import DataError, FieldError
from muster.core.part import dumps, loads
from muster.core.population import Population
from muster.core.tables import SECOND, TASK, rows
from muster.core.work import Work
from muster.devices.clocks import Clock
from muster.devices.imported import Imported
from muster.devices.importers import import_traces
from muster.devices.mobile import Mobile
from muster.devices.world import World

COUNT = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 devices: row i takes 1 + i ms, has 1000 + i kbit/s, and is online in second i of 1,000."""
    home = tmp_path_factory.mktemp("traces")
    lines = [f"{1 + i},{1000 + i},{5000 + i},{100 + i}" for i in range(COUNT)]
    (home / "d.csv").write_text("\n".join(["ms_per_example,down_kbps,up_kbps,memory_mb", *lines]))
    lines = [f"{i:04},{i},{i + 0.5},1000" for i in range(COUNT)]
    (home / "a.csv").write_text("\n".join(["trace,start_secs,end_secs,period_secs", *lines]))
    import_traces([home / "d.csv", home / "a.csv"], home / "out")
    return str(home / "out")


def sizes(count):
    return np.arange(count, dtype=np.int32) % 37 + 1


def drawn(population):
    """Row of compute, down link, up link and availability of each client."""
    trace = population.availability.next_online(np.arange(population.num_clients), 0) // SECOND
    links = population.down_kbps - 1000, population.up_kbps - 5000
    return [np.asarray(column, np.int64) for column in (population.ms_per_example - 1, *links, trace)]


def test_independent_tables_are_shuffled_apart(folder):
    compute, down, up, trace = drawn(Imported(folder).draw(sizes(COUNT), 1))
    for column in (compute, down, trace):
        assert sorted(column) == list(range(COUNT))  # nobody twice, as there are enough
        assert (column == np.arange(COUNT)).mean() < 0.05
    assert (down == up).all()
    for one, other in ((compute, down), (compute, trace), (down, trace)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(COUNT)


@pytest.mark.parametrize("count", [COUNT // 4, COUNT, 10 * COUNT])
def test_by_row_keeps_a_device_together(folder, count):
    columns = drawn(Imported(folder, join="by_row").draw(sizes(count), 1))
    assert all((column == columns[0]).all() for column in columns)
    if count <= COUNT:
        assert len(set(columns[0])) == count
    else:  # with replacement: a row is left out with probability 1/e^10
        assert len(set(columns[0])) >= COUNT - 3
    assert abs(np.corrcoef(columns[0], np.arange(count))[0, 1]) < 4 / np.sqrt(count)


def test_by_rank_gives_the_fastest_device_to_the_client_of_most_data(folder):
    held = sizes(100)
    columns = drawn(Imported(folder, join="by_rank").draw(held, 1))
    assert all((column == columns[0]).all() for column in columns)
    speed = columns[0]
    order = np.lexsort((np.arange(100), -held))  # most data first, then by number
    assert (np.diff(speed[order]) > 0).all()
    by_row = drawn(Imported(folder, join="by_row").draw(held, 1))[0]
    assert sorted(speed) == sorted(by_row)  # the same devices, dealt out otherwise


def test_the_seed_decides(folder):
    one, again, other = (drawn(Imported(folder).draw(sizes(50), seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert all((a != b).any() for a, b in zip(one, other, strict=True))


def test_memory_goes_with_compute(folder):
    if "memory_mb" not in {field.name for field in fields(Population)}:
        pytest.skip("populations have no memory yet")
    population = Imported(folder).draw(sizes(COUNT), 1)
    assert (population.memory_mb - 100 == population.ms_per_example - 1).all()


def test_a_link_of_mean_and_sigma_is_drawn_and_clipped(tmp_path):
    links = {f"{i}": {"down_u": 1000, "down_sigma": 100, "up_u": 500, "up_sigma": 1000} for i in range(5)}
    (tmp_path / "s.json").write_text(json.dumps(links))
    import_traces([tmp_path / "s.json"], tmp_path / "out")
    population = Imported(str(tmp_path / "out")).draw(sizes(20_000), 3)
    assert population.down_kbps.mean() == pytest.approx(1000, abs=4 * 100 / np.sqrt(20_000))
    assert population.down_kbps.std() == pytest.approx(100, rel=0.03)
    # P(500 + 1000 z < 50) = P(z < -0.45) = 0.3264
    assert population.up_kbps.min() == 50
    assert (population.up_kbps == 50).mean() == pytest.approx(0.3264, abs=0.015)


def test_what_the_folder_lacks_is_drawn_as_mobile_does(tmp_path):
    (tmp_path / "d.csv").write_text("ms_per_example\n7\n8\n")
    import_traces([tmp_path / "d.csv"], tmp_path / "out")
    population = Imported(str(tmp_path / "out")).draw(sizes(30), 5)
    assert set(population.ms_per_example.tolist()) == {7, 8}
    assert (population.down_kbps == Mobile().draw(sizes(30), 5).down_kbps).all()
    assert population.availability is None


def test_by_row_uses_the_rows_that_all_tables_have(tmp_path):
    (tmp_path / "d.csv").write_text("ms_per_example\n" + "\n".join(str(1 + i) for i in range(100)))
    links = {str(i): {"down_u": 1 + i, "down_sigma": 0, "up_u": 1, "up_sigma": 0} for i in range(30)}
    (tmp_path / "s.json").write_text(json.dumps(links))
    import_traces([tmp_path / "d.csv", tmp_path / "s.json"], tmp_path / "out")
    population = Imported(str(tmp_path / "out"), "by_row").draw(sizes(30), 0)
    assert (population.ms_per_example == population.down_kbps).all()
    assert sorted(population.ms_per_example) == list(range(1, 31))
    apart = Imported(str(tmp_path / "out")).draw(sizes(100), 0)
    assert sorted(apart.ms_per_example) == list(range(1, 101)) and apart.down_kbps.max() == 30


def test_by_rank_needs_compute_times(tmp_path):
    (tmp_path / "d.csv").write_text("up_kbps\n7\n8\n")
    import_traces([tmp_path / "d.csv"], tmp_path / "out")
    assert Imported(str(tmp_path / "out"), "by_row").draw(sizes(3), 0).num_clients == 3
    with pytest.raises(FieldError, match=r"by_rank.*there are no compute times"):
        Imported(str(tmp_path / "out"), "by_rank").draw(sizes(3), 0)


def test_a_folder_that_is_not_there_and_wrong_fields(tmp_path):
    with pytest.raises(DataError, match="holds no imported traces"):
        Imported(str(tmp_path / "no")).draw(sizes(3), 0)
    with pytest.raises(FieldError, match=r"imported\.join .*did you mean 'by_row'"):
        Imported("x", join="by_rows")
    with pytest.raises(FieldError, match=r"imported\.path"):
        Imported("")
    part = Imported("x", "by_rank", 0.5)
    assert loads(dumps(part)) == part


# Rows of the published trace; sizes of 666,786.03125 and 350,886.7421875 kbit are these bytes.
RESNET, ALBERT = 85_348_612, 44_913_503
ROWS = {
    153: (2209.6159823294856, (RESNET, 4, 36.72, 603.5311444000703), (ALBERT, 1, 9.18, 317.5997503580491)),
    39: (18437.311985652217, (RESNET, 4, 9.36, 72.33006978120109), None),
    22: (22915.494847737755, (RESNET, 4, 5.28, 58.195211203639005), None),
    29: (6924.407283130328, (ALBERT, 1, 1.74, 101.34780576594682), None),
    138: (14506.494272424507, (ALBERT, 1, 8.28, 48.37650442595259), None),
    176: (32545.573620752577, (ALBERT, 1, 10.56, 21.56279353231361), None),
}


def test_published_rows_of_fedscales_clock_through_a_file(tmp_path):
    lines = [f"{i},{ms},{row[0]!r}" for i, (ms, row) in enumerate(ROWS.items())]
    (tmp_path / "d.csv").write_text(
        "\n".join(["client_id,computation_ms_per_sample,communication_kbps", *lines])
    )
    import_traces([tmp_path / "d.csv"], tmp_path / "out")
    population = Imported(str(tmp_path / "out"), "by_row").draw(np.full(6, 500, np.int32), 0)
    tried = 0
    for client, ms in enumerate(population.ms_per_example.tolist()):
        for case in ROWS[ms][1:]:
            if case is None:
                continue
            size, steps, compute, link = case
            at = World(population, Work(steps=steps, batch_size=20), size, size, 0.0, 0, Clock("fedscale"))
            (row,) = at.timing(rows(TASK, 1, client=[client]))
            assert row["compute"] / SECOND == pytest.approx(compute, rel=1e-9)
            assert (row["down"] + row["up"]) / SECOND == pytest.approx(link, rel=1e-9)
            tried += 1
    assert tried == 7


CONDITIONS = """trace,start_secs,end_secs,period_secs,condition
a,0,10,100,charging
a,5,20,100,wifi
b,0,10,100,charging
b,40,50,100,wifi
"""
"""a charges and has WiFi from 5 to 10 s; b never at once."""


def test_a_client_is_there_when_all_conditions_hold(tmp_path):
    (tmp_path / "a.csv").write_text(CONDITIONS)
    import_traces([tmp_path / "a.csv"], tmp_path / "out")
    seconds = np.arange(100)

    def there(*conditions):
        population = Imported(str(tmp_path / "out"), conditions=conditions).draw(sizes(2), 0)
        online = [population.availability.online(np.full(100, c), seconds * SECOND) for c in (0, 1)]
        return sorted((np.flatnonzero(one).tolist() for one in online), key=len)

    assert there() == there("charging", "wifi") == there("wifi", "charging") == [[], [5, 6, 7, 8, 9, 10]]
    assert there("charging") == [list(range(11))] * 2
    assert there("wifi") == [list(range(40, 51)), list(range(5, 21))]


def test_conditions_that_a_folder_does_not_tell_are_refused(tmp_path, folder):
    (tmp_path / "a.csv").write_text(CONDITIONS)
    import_traces([tmp_path / "a.csv"], tmp_path / "out")
    with pytest.raises(FieldError, match=r"\['idle'\], but must be some of charging, wifi"):
        Imported(str(tmp_path / "out"), conditions=("idle",)).draw(sizes(2), 0)
    with pytest.raises(FieldError, match="empty: these traces tell no conditions"):
        Imported(folder, conditions=("charging",)).draw(sizes(2), 0)


def test_a_condition_without_a_name_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text(CONDITIONS.replace("50,100,wifi", "50,100,Wi Fi"))
    with pytest.raises(DataError, match="condition in row 5 is 'Wi Fi', but must be a name like charging"):
        import_traces([tmp_path / "a.csv"], tmp_path / "out")

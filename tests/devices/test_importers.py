"""Traces of others become a folder of arrays; what is wrong in them is told in one sentence."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from muster.core.errors import DataError, UserError
from muster.core.tables import SECOND
from muster.devices.availability import Intervals
from muster.devices.importers import import_traces
from muster.devices.trace_folder import open_traces

CAPACITY = """{
    1: {'computation': 153, 'communication': 2209.6159823294856},
    2: {'computation': 39, 'communication': 18437.311985652217},
}"""
BEHAVE = """OrderedDict([
    (2, {'duration': 2, 'inactive': [4, 7, 10], 'finish_time': 10, 'active': [1, 6, 9], 'model': 'CPH1801'}),
    (1, {'duration': 1, 'inactive': [5], 'finish_time': 20, 'active': [4], 'model': 'x'}),
    (3, {'duration': 0, 'inactive': [], 'finish_time': 30, 'active': [], 'model': 'never'}),
])"""


def pickled(expression, protocol=4):
    code = (
        "import pickle, sys; from collections import OrderedDict\n"
        f"sys.stdout.buffer.write(pickle.dumps({expression}, {protocol}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


@pytest.fixture
def imported(tmp_path):
    """Writes files, imports them and gives the facts and the arrays."""

    def make(kind="auto", **contents):
        files = []
        for name, content in contents.items():
            files.append(tmp_path / name.replace("__", "."))
            files[-1].write_bytes(content.encode() if isinstance(content, str) else content)
        out = tmp_path / "out"
        facts = import_traces(files, out, kind)
        return facts, open_traces(out)

    return make


def lists(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize("protocol", range(5))
def test_the_two_files_of_fedscale(imported, protocol):
    kind = "auto" if protocol >= 2 else "fedscale"
    facts, arrays = imported(kind, capacity=pickled(CAPACITY, protocol), behave=pickled(BEHAVE, protocol))
    assert facts["rows"] == {"compute": 2, "link": 2, "availability": 3}
    assert [source["kind"] for source in facts["sources"]] == ["fedscale", "fedscale"]
    s = SECOND
    assert lists(arrays) == {
        "ms_per_example": [153, 39],
        "down_kbps": [2209.6159823294856, 18437.311985652217],
        "up_kbps": [2209.6159823294856, 18437.311985652217],
        # By client id: 1, 2, 3.
        "starts": [4 * s, 1 * s, 6 * s, 9 * s],
        "ends": [5 * s, 4 * s, 7 * s, 10 * s],
        "offsets": [0, 1, 4, 4],
        "period": [20 * s, 10 * s, 30 * s],
    }


ROW_3834 = {
    "duration": 211625,
    "inactive": [65881, 133574, 208292, 276575, 295006, 356236, 400906, 475099],
    "finish_time": 518400,
    "active": [12788, 100044, 188992, 271372, 276663, 352625, 356267, 441193],
    "model": "CPH1801",
}
"""A row of the real file, as printed in public."""


def test_a_real_row_is_online_when_it_was_in_every_period_and_any_order(imported):
    _, arrays = imported(
        behave=pickled(repr({1: {**ROW_3834, "active": [], "inactive": []}, 3834: ROW_3834}))
    )
    intervals = Intervals(*(arrays[name] for name in ("starts", "ends", "offsets", "period")))
    assert intervals.shares().tolist() == pytest.approx([0, 211625 / 518400], rel=1e-12)
    known = {12787: 0, 12788: 1, 65881: 1, 65882: 0, 276600: 0, 276663: 1, 0: 0}
    for period in (9, 0, 100, 3):
        for at, online in known.items():
            when = np.array([(at + period * 518400) * SECOND])
            assert intervals.online(np.array([1]), when).tolist() == [bool(online)]


@pytest.mark.skipif(not os.environ.get("MUSTER_DATA"), reason="MUSTER_DATA is not set")
def test_every_known_row_of_the_real_file_at_each_of_its_bounds_in_any_order_at_any_wrap(imported):
    traces = Path(os.environ["MUSTER_DATA"]) / "traces"
    known = json.loads((traces / "availability_known_rows.json").read_text())
    known |= json.loads((traces / "first10_printed_excerpt.json").read_text())["client_behave_trace"]
    real = {int(name): row for name, row in sorted(known.items(), key=lambda item: int(item[0]))}
    assert len(real) >= 15
    _, arrays = imported(behave=pickled(repr(real)))
    intervals = Intervals(*(arrays[name] for name in ("starts", "ends", "offsets", "period")))
    asked = []  # (row, instant in seconds, whether it is online then)
    for number, row in enumerate(real.values()):
        spans = list(zip(row["active"], row["inactive"], strict=True))
        finish = row["finish_time"]
        for bound in {b + off for span in spans for b in span for off in (-1, 0, 1)}:
            within = bound % finish
            online = any(start <= within <= end for start, end in spans)
            asked += [(number, within + wrap * finish, online) for wrap in (0, 1, 777)]
    rows, secs, online = np.array(asked).T[:, np.random.default_rng(0).permutation(len(asked))]
    assert online.any() and not online.all()
    assert intervals.online(rows, secs * SECOND).tolist() == online.astype(bool).tolist()


def test_an_honest_file_by_opcodes_of_our_own(imported):
    # {1: {"computation": 22, "communication": 5.5}}, protocol 2, with the memo that Python would write.
    text = [b"X" + struct.pack("<I", len(t)) + t for t in (b"computation", b"communication")]
    row = b"}q\x01(" + text[0] + b"q\x02K\x16" + text[1] + b"q\x03G" + struct.pack(">d", 5.5) + b"u"
    _, arrays = imported(f=b"\x80\x02}q\x00K\x01" + row + b"s.")
    assert lists(arrays) == {"ms_per_example": [22], "down_kbps": [5.5], "up_kbps": [5.5]}


def test_flash(imported):
    phones = [
        {"Model": "A", "RAM": "8GB", "AI_Score": " 200 1,6"},
        {"Model": "B", "RAM": "1.5GB", "AI_Score": "100"},
        {"Model": "C", "RAM": "4GB", "AI_Score": "50"},
    ]
    links = {"x": {"down_u": 7491.4, "down_sigma": 3369.25, "up_u": 4935.2, "up_sigma": 0}}
    _, arrays = imported(phones__json=json.dumps(phones), speed__json=json.dumps(links))
    assert lists(arrays) == {
        # The phone of median score takes 41 ms, the one of twice the score half of it.
        "ms_per_example": [20.5, 41, 82],
        "memory_mb": [8192, 1536, 4096],
        "down_kbps": [7491.4],
        "up_kbps": [4935.2],
        "down_sigma": [3369.25],
        "up_sigma": [0],
    }


def test_scores_of_flash(imported):
    _, arrays = imported(scores__json='{"A": 200, "B": 100, "C": 50}')
    assert lists(arrays) == {"ms_per_example": [20.5, 41, 82]}


@pytest.mark.skipif(not os.environ.get("MUSTER_DATA"), reason="MUSTER_DATA is not set")
def test_the_real_files_of_flash_and_the_recovered_rows(tmp_path):
    traces = Path(os.environ["MUSTER_DATA"]) / "traces"
    if not traces.is_dir():
        pytest.skip("MUSTER_DATA has no traces")
    files = [traces / "flash" / name for name in ("raw_ai_benchmark_list.json", "speed_distri.json")]
    facts = import_traces(files, tmp_path / "flash")
    raw = json.loads(files[0].read_text())
    assert facts["rows"] == {"compute": len(raw), "link": len(json.loads(files[1].read_text()))}
    assert np.median(open_traces(tmp_path / "flash")["ms_per_example"]) == pytest.approx(41, rel=0.01)
    facts = import_traces([traces / "device_capacity_recovered.csv"], tmp_path / "rows")
    assert facts["rows"] == {"compute": 2023, "link": 2023}
    arrays = open_traces(tmp_path / "rows")
    assert arrays["ms_per_example"][0] == 153 and arrays["up_kbps"][0] == 2209.6159823294856


def test_mahimahi(imported):
    # 3 packets of 1,500 bytes in the first second, 1 in the second, none in the third, 2 in the fourth,
    # which ends with its last millisecond: 36, 12, 0 and 24 kbit. The other link has one second.
    facts, arrays = imported(one="0\n5\n999\n1000\n3000\n3999\n", two="1\n1\n")
    assert facts["rows"] == {"link": 2}
    assert lists(arrays) == {
        "down_kbps": [18, 24],
        "up_kbps": [18, 24],
        "kbps": [36, 12, 0, 24, 24],
        "kbps_offsets": [0, 4, 5],
        "series_down": [0, 1],
        "series_up": [0, 1],
    }


def test_two_ways_of_a_mahimahi_link(imported):
    _, arrays = imported(lte__up="1\n1\n", other="1\n", lte__down="0\n5\n999\n1000\n1999\n")
    assert lists(arrays) == {
        "down_kbps": [30, 12],
        "up_kbps": [24, 12],
        "kbps": [24, 12, 36, 24],
        "kbps_offsets": [0, 1, 2, 4],
        "series_down": [2, 1],
        "series_up": [0, 1],
    }
    with pytest.raises(UserError, match=r"lte\.down and lte\.up are the two ways of one link; give both"):
        imported(lte__down="1\n")


def test_the_last_second_of_a_link_counts_only_if_it_is_whole(imported):
    _, arrays = imported(one="0\n1000\n1500\n2100\n")
    assert arrays["kbps"].tolist() == [12, 24]


def test_csv_of_devices(imported):
    _, arrays = imported(d__csv="up_kbps,note,ms_per_example,memory_mb\n100,a,10,2048\n200.5,b,20,4096\n")
    assert lists(arrays) == {
        "ms_per_example": [10, 20],
        "memory_mb": [2048, 4096],
        "down_kbps": [100, 200.5],
        "up_kbps": [100, 200.5],
    }


def test_csv_of_availability(imported):
    _, arrays = imported(
        a__csv="trace,start_secs,end_secs,period_secs\nb,5,6,10\na,0.5,3,20\nb,1,2,10\nb,2,4,10\n"
    )
    s = SECOND
    assert lists(arrays) == {
        "starts": [s // 2, 1 * s, 5 * s],
        "ends": [3 * s, 4 * s, 6 * s],  # b: [1, 2] and [2, 4] touch
        "offsets": [0, 1, 3],
        "period": [20 * s, 10 * s],
    }


def test_parquet(imported, tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.table({"ms_per_example": [10.0, 20.0]}), tmp_path / "x.parquet")
    _, arrays = imported(d__parquet=(tmp_path / "x.parquet").read_bytes())
    assert lists(arrays) == {"ms_per_example": [10, 20]}


def test_availability_from_parquet(imported, tmp_path):
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {"trace": ["b", "a"], "start_secs": [5, 0.5], "end_secs": [6, 3.0], "period_secs": [10, 20]}
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet")
    facts, arrays = imported(d__parquet=(tmp_path / "x.parquet").read_bytes())
    assert lists(arrays) == {
        "starts": [SECOND // 2, 5 * SECOND],
        "ends": [3 * SECOND, 6 * SECOND],
        "offsets": [0, 1, 2],
        "period": [20 * SECOND, 10 * SECOND],
    }
    assert facts["sources"][0]["kind"] == "parquet"


def test_parquet_without_pyarrow(imported, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"Parquet needs pyarrow \(pip install 'muster-fl\[parquet\]'\), or make it a CSV"
    ):
        imported(d__parquet=b"PAR1...")


LINKS = '{"x": {"down_u": -1, "down_sigma": 1, "up_u": 1, "up_sigma": 1}}'
WRONG = {
    "a pickle that calls": (
        b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.",
        "this pickle names the Python object",
    ),
    "a pickle of a list": (b"\x80\x02].", "must be a dict of dicts"),
    "a pickle of other rows": (pickled("{1: {'speed': 3}}"), "its rows have speed; a FedScale trace has"),
    "a speed that is text": (
        pickled("{1: {'computation': '3', 'communication': 1}}"),
        "computation of 1 is '3'",
    ),
    "a speed of 0": (
        pickled("{1: {'computation': 0, 'communication': 1}}"),
        "of device 0 is 0, but must be above 0",
    ),
    "an odd trace": (
        pickled("{7: {'active': [1], 'inactive': [], 'finish_time': 9}}"),
        "client 7 must have as many entries in active as in inactive",
    ),
    "an interval that ends early": (
        pickled("{7: {'active': [3], 'inactive': [2], 'finish_time': 9}}"),
        "online from 3 to 2 s",
    ),
    "no period": (pickled("{7: {'active': [3], 'inactive': [4]}}"), "its rows have active, inactive;"),
    "a period of 0": (
        pickled("{7: {'active': [], 'inactive': [], 'finish_time': 0}}"),
        "period of trace 0 is 0 s",
    ),
    "beyond the period": (
        pickled("{7: {'active': [10], 'inactive': [11], 'finish_time': 10}}"),
        "comes online at 10 s, after its period of 10 s",
    ),
    "other JSON": ('{"a": "b"}', "none of FLASH's files"),
    "broken JSON": ('{"a": ', "is no JSON"),
    "deep JSON": ("[" * 100_000, "is no JSON"),
    "a score of 0": ('{"a": 0}', "a score is 0.0"),
    "a link of no speed": (LINKS, "down_kbps of device 0 is -1, but must be above 0"),
    "falling stamps": ("5\n4\n", "milliseconds must rise"),
    "stamps and text": ("5\nx\n", "each line must be a whole number"),
    "a header only": ("ms_per_example\n", "has no rows"),
    "a ragged row": ("ms_per_example,up_kbps\n1,2\n3\n", "row 3 has another number of cells"),
    "a cell of text": ("ms_per_example\n1\nfast\n", "ms_per_example in row 3 is 'fast'"),
    "an infinite cell": ("ms_per_example\ninf\n", "is inf, but must be above 0"),
    "a misspelt column": ("ms_per_exampl\n1\n", "did you mean 'ms_per_example'"),
    "half an availability": ("trace,start_secs\n1,2\n", "lacks end_secs, period_secs"),
    "two periods": (
        "trace,start_secs,end_secs,period_secs\nb,5,6,10\nb,1,2,11\n",
        "period_secs of trace b must be the same in all its rows",
    ),
    "unknown bytes": (b"\x00\x01", "is of no kind that is known; say which with --kind"),
    "nothing": (b"", "is of no kind that is known"),
}


@pytest.mark.parametrize(("content", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_imported_is_told_and_leaves_nothing(imported, tmp_path, content, says):
    with pytest.raises(DataError) as refused:
        imported(f=content)
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_files_that_do_not_go_together(imported):
    with pytest.raises(UserError, match="brings ms_per_example, which another file has brought"):
        imported(a__csv="ms_per_example\n1\n", b__csv="ms_per_example\n2\n")
    with pytest.raises(UserError, match="both bring link speeds"):
        imported(a__csv="up_kbps\n1\n", b="1\n2\n")
    with pytest.raises(UserError, match="--kind is 'xml', but must be one of auto, fedscale, flash"):
        imported("xml", a="1\n")


def test_a_folder_that_is_there_stays_as_it_is(imported, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already"):
        imported(a="1\n2\n")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        import_traces([tmp_path / "no"], tmp_path / "out")


@pytest.mark.parametrize("damage", ["array", "facts", "gone", "format", "no folder"])
def test_a_damaged_folder_is_refused(imported, tmp_path, damage):
    imported(a__csv="ms_per_example\n1\n2\n")
    out = tmp_path / "out"
    file = out / ("ms_per_example.npy" if damage in ("array", "gone") else "facts.json")
    if damage == "array":
        file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    elif damage == "facts":
        file.write_text(file.read_text().replace('"kind": "csv"', '"kind": "tsv"'))
    elif damage == "format":
        file.write_text("[]")
    elif damage == "gone":
        file.unlink()
    else:
        out = tmp_path / "elsewhere"
    with pytest.raises(DataError, match="make it with: muster devices import FILE --out DIR"):
        open_traces(out)

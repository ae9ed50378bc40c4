import errno
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest

from muster.core import arrays
from muster.core.errors import DataError, UserError
from muster.core.examples import Examples, Facts
from muster.core.part import user_module
from muster.data import federated
from muster.data.dataset import DataSet, Raw
from muster.data.digits import Digits
from muster.data.fashion_mnist import FashionMNIST
from muster.data.federated import FederatedData
from muster.data.partition import Assignment, Dirichlet, Iid, Natural, Partition
from muster.data.store import prepare

NUM = 12
FACTS = Facts("points", (2,), num_classes=3)
TRAIN = Examples(np.arange(2 * NUM, dtype=np.float32).reshape(NUM, 2), np.arange(NUM) % 3)
TEST = Examples(np.ones((4, 2), np.uint8), np.zeros(4, np.int64))
RAW = Raw(FACTS, TRAIN, TEST, np.arange(NUM, dtype=np.int32) % 4, ("ann", "bob", "cem", "dee"))
LETTERS = np.frombuffer(b"abcdefghij", np.uint8) - ord("a")
WINDOWS = Examples(np.array([0, 5]), np.array([3, 8]), LETTERS)
TEXT = Raw(Facts("letters", (3,), 10, vocabulary="abcdefghij"), WINDOWS, WINDOWS)


@dataclass(frozen=True)
class Points(DataSet):
    partition: Partition = field(default_factory=Natural)

    def load(self):
        return RAW


@dataclass(frozen=True)
class Broken(DataSet):
    """Loads what a test gives it."""

    partition: Partition = field(default_factory=lambda: Iid(2))

    def load(self):
        raise AssertionError("replaced by the test")


def test_clients_hold_what_the_partition_gave_them(tmp_path):
    data = prepare(Points(), seed=0, cache=tmp_path)
    assert (data.facts, data.num_clients) == (FACTS, 4)
    assert data.num_examples.tolist() == [3] * 4
    assert data.num_examples.dtype == np.int32
    assert data.client_names == ("ann", "bob", "cem", "dee")
    assert data.client(1).x.tolist() == [[2, 3], [10, 11], [18, 19]]  # examples 1, 5 and 9
    assert data.client(1).y.tolist() == [1, 2, 0]
    assert data.test.x.dtype == np.uint8
    assert data.test.y.tolist() == [0] * 4
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            data.client(wrong)


def test_clients_are_read_only_views_of_one_mapped_file(tmp_path):
    data = prepare(Points(), seed=0, cache=tmp_path)
    x = data.client(2).x
    assert np.shares_memory(x, data.client(2).slice(1, 2).x)
    root = x
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert isinstance(root, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_clients_of_a_large_data_set_are_read_and_stay_nowhere(tmp_path, monkeypatch):
    mapped = prepare(Points(), seed=0, cache=tmp_path)
    monkeypatch.setattr(federated, "RESIDENT_BYTES", 8)
    read = FederatedData.open(mapped.path)
    for i in range(4):
        mine, same = read.client(i), mapped.client(i)
        assert mine.x.tolist() == same.x.tolist() and mine.y.tolist() == same.y.tolist()
        assert (mine.x.dtype, mine.y.dtype) == (same.x.dtype, same.y.dtype)
        assert not np.shares_memory(mine.x, read.client(i).x)
    some, owned = read.clients([3, 0, 3])
    assert owned == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert some.y.tolist() == [*mapped.client(3).y, *mapped.client(0).y, *mapped.client(3).y]
    with pytest.raises(ValueError, match="read-only"):
        some.x[0] = 1
    with pytest.raises(IndexError):
        read.client(4)
    os.truncate(mapped.path / "y.npy", (mapped.path / "y.npy").stat().st_size - 8)
    with pytest.raises(DataError, match=r"y\.npy ends before byte"):
        read.client(3)


def test_another_process_may_map_the_same_folder(tmp_path):
    data = prepare(Digits(Dirichlet(20)), seed=3, cache=tmp_path)
    code = (
        "import sys; from pathlib import Path; from muster.data.federated import FederatedData as F; "
        "d = F.open(Path(sys.argv[1])); print(d.num_clients, d.num_examples.sum(), d.client(7).x.sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, data.path], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["20", "1438", str(data.client(7).x.sum())]


def test_text_is_kept_once_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "load", lambda self: TEXT)
    data = prepare(Broken(), seed=0, cache=tmp_path)
    assert data.facts == TEXT.facts
    np.testing.assert_array_equal(data.client(0).text, LETTERS)
    assert data.client(0).text is data.client(1).text is data.test.text
    assert sorted(int(data.client(i).x[0]) for i in (0, 1)) == [0, 5]


def test_second_time_nothing_is_loaded(tmp_path, monkeypatch):
    first = prepare(Points(), seed=0, cache=tmp_path)
    monkeypatch.setattr(Points, "load", lambda self: pytest.fail("loaded again"))
    assert prepare(Points(), seed=0, cache=tmp_path).path == first.path


def test_settings_seed_and_sources_have_folders_of_their_own(tmp_path, monkeypatch):
    paths = {
        prepare(dataset, seed, tmp_path).path
        for dataset, seed in [(Points(), 0), (Points(), 1), (Points(Iid(3)), 0), (Points(Iid(4)), 0)]
    }
    monkeypatch.setattr(Points, "fingerprint", lambda self: "another source")
    paths.add(prepare(Points(), 0, tmp_path).path)
    assert len(paths) == 5
    assert {path.parent for path in paths} == {tmp_path}
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # nothing else is left


def test_seed_moves_training_examples_but_not_the_test_set(tmp_path):
    one, other = (prepare(Digits(Iid(10)), seed, tmp_path) for seed in (0, 1))
    assert not np.array_equal(one.client(0).x, other.client(0).x)
    np.testing.assert_array_equal(one.test.x, other.test.x)


def test_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "here"))
    assert prepare(Points(), seed=0).path.parent == tmp_path / "here"
    monkeypatch.delenv("MUSTER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepare(Points(), seed=0).path.parent == tmp_path / "home" / ".cache" / "muster"


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def edit_facts(file):
    file.write_text(file.read_text().replace('"num_classes": 3', '"num_classes": 4'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("x.npy", flip_a_bit),
        ("y.npy", cut),
        ("offsets.npy", Path.unlink),
        ("test_x.npy", flip_a_bit),
        ("test_y.npy", lambda file: file.write_bytes(b"")),
        ("facts.json", cut),
        ("facts.json", edit_facts),
        ("facts.json", Path.unlink),
        ("facts.json", lambda file: file.write_text("[]")),
    ],
)
def test_damage_is_told_once_and_repaired(tmp_path, caplog, name, damage):
    data = prepare(Points(), seed=0, cache=tmp_path)
    before = {file.name: file.read_bytes() for file in data.path.iterdir()}
    damage(data.path / name)
    with pytest.raises(DataError, match="cannot be used"):
        FederatedData.open(data.path, verify=True)
    with caplog.at_level(logging.WARNING):
        prepare(Points(), seed=0, cache=tmp_path)
    (told,) = caplog.messages
    assert name in told
    assert "it is prepared anew" in told
    assert {file.name: file.read_bytes() for file in data.path.iterdir()} == before
    assert list(tmp_path.iterdir()) == [data.path]


def test_another_format_is_prepared_anew(tmp_path, monkeypatch):
    path = prepare(Points(), seed=0, cache=tmp_path).path
    stored = json.loads((path / "facts.json").read_text())
    assert stored["format"] == 1
    monkeypatch.setattr("muster.data.federated.FORMAT", 2)
    with pytest.raises(DataError, match="format 1, but this version reads format 2"):
        FederatedData.open(path)


@pytest.mark.parametrize("name", ["x.npy", "offsets.npy", "test_y.npy", "facts.json"])
def test_a_cut_file_is_refused_even_without_verifying(tmp_path, name):
    path = prepare(Points(), seed=0, cache=tmp_path).path
    cut(path / name)
    with pytest.raises(DataError, match=f"{name} is missing or damaged"):
        FederatedData.open(path)


def test_opening_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be used"):
        FederatedData.open(tmp_path / "gone")


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, reason):
    written = []

    def write(self, data):
        written.append(len(data))
        if len(written) > 5:
            raise OSError(reason, os.strerror(reason))
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(arrays.HashedFile, "write", write)
        with pytest.raises(DataError, match=f"{os.strerror(reason)}.*MUSTER_CACHE"):
            prepare(Points(), seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert prepare(Points(), seed=0, cache=tmp_path).num_clients == 4


def test_a_file_in_the_place_of_the_cache_is_told(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match="MUSTER_CACHE"):
        prepare(Points(), seed=0, cache=tmp_path / "cache")


def test_leftovers_of_killed_processes_go_after_a_day_and_nothing_else(tmp_path):
    for name, age_secs in (
        (".muster-aside-old", 90_000),
        (".muster-aside-new", 60),
        (".my-own-folder", 90_000),
    ):
        (tmp_path / name).mkdir()
        then = (tmp_path / name).stat().st_mtime - age_secs
        os.utime(tmp_path / name, (then, then))
    path = prepare(Points(), seed=0, cache=tmp_path).path
    assert {file.name for file in tmp_path.iterdir()} == {".muster-aside-new", ".my-own-folder", path.name}


OWN = """
from dataclasses import dataclass, field
import numpy as np
from muster.data import federated
from muster.data.dataset import DataSet, Raw
from muster.core.examples import Examples, Facts
from muster.data.partition import Iid, Partition

@dataclass(frozen=True)
class Mine(DataSet):
    partition: Partition = field(default_factory=lambda: Iid(7))

    def load(self):
        x = np.arange(300_000, dtype=np.float32).reshape(-1, 3)
        some = Examples(x, np.arange(100_000) % 2)
        return Raw(Facts("mine", (3,), num_classes=2), some, some)
"""

RACE = """
import os, sys
from pathlib import Path
from muster.core.part import resolve
from muster.data import store
own, cache, then = sys.argv[1:]
if then == "die":
    write = store.write_array
    store.write_array = lambda file, array: os._exit(9) if file.name == "y.npy" else write(file, array)
print("ready", flush=True)
sys.stdin.readline()
data = store.prepare(resolve(own + ":Mine")(), 0, Path(cache))
print(data.path.name, data.num_examples.sum(), int(data.client(6).x.sum()))
"""


def racer(own, cache, then="finish"):
    process = subprocess.Popen(
        [sys.executable, "-c", RACE, own, cache, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_that_prepare_the_same_at_once_agree(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    cache = tmp_path / "cache"
    racers = [racer(tmp_path / "own.py", cache) for _ in range(3)]
    for process in racers:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = {process.communicate(timeout=60)[0] for process in racers}
    assert [process.returncode for process in racers] == [0, 0, 0]
    mine = prepare(user_module(tmp_path / "own.py").Mine(), 0, cache)
    assert told == {f"{mine.path.name} 100000 {int(mine.client(6).x.sum())}\n"}
    assert list(cache.iterdir()) == [mine.path]


def test_a_process_killed_while_it_prepares_leaves_nothing_that_is_used(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    cache = tmp_path / "cache"
    process = racer(tmp_path / "own.py", cache, "die")
    process.communicate("go\n", timeout=60)
    assert process.returncode == 9
    assert [path.name.startswith(".muster-aside-") for path in cache.iterdir()] == [True]
    data = prepare(user_module(tmp_path / "own.py").Mine(), 0, cache)
    assert data.num_examples.sum() == 100_000
    np.testing.assert_array_equal(data.test.x[:2], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train": Examples(TRAIN.x[:5], TRAIN.y)}, "train needs y as i64"),
        ({"train": Examples(TRAIN.x, TRAIN.y.astype(np.int32))}, "train needs y as i64"),
        ({"train": Examples(TRAIN.x, TRAIN.y + 1)}, r"train has classes 1\.\.3, but .* allows 0\.\.2"),
        ({"test": Examples(TEST.x[:0], TEST.y[:0])}, "test has no examples"),
        ({"test": Examples(TEST.x[:, :1], TEST.y)}, r"test has examples of shape \(1,\)"),
        ({"train": Examples(TRAIN.x.astype(np.float64), TRAIN.y)}, "must have uint8 or float32"),
        ({"train": Examples(TRAIN.x * np.float32("nan"), TRAIN.y)}, "NaN or infinite"),
        ({"natural": RAW.natural[:5]}, "natural must be i32"),
        ({"natural": RAW.natural + 1}, "natural must index its 4 natural_names"),
        ({"facts": TEXT.facts, "train": changed(WINDOWS, x=np.array([0, 8])), "test": WINDOWS}, r"in 0\.\.7"),
        (
            {"facts": TEXT.facts, "train": WINDOWS, "test": changed(WINDOWS, text=LETTERS.copy())},
            "share one text",
        ),
    ],
)
def test_a_data_set_that_breaks_its_contract_is_told(tmp_path, monkeypatch, change, told):
    monkeypatch.setattr(Broken, "load", lambda self: changed(RAW, **change))
    with pytest.raises(DataError, match=f"data set broken: .*{told}"):
        prepare(Broken(), seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_users_load_raises_becomes_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"data set broken: load\(\) raised AssertionError: replaced"):
        prepare(Broken(), seed=0, cache=tmp_path)


@dataclass(frozen=True)
class Careless(Partition):
    kind: str = ""

    def assign(self, labels, num_classes, natural, rng):
        order = np.zeros(2, np.int64) if self.kind == "twice" else np.arange(2) + len(labels) - 1
        return Assignment(order, np.array([0, 0, 2]) if self.kind == "empty" else np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("kind", "told"),
    [("twice", "none twice"), ("beyond", "indices below 12"), ("empty", "must hold an example")],
)
def test_a_users_partition_that_breaks_its_contract_is_told(tmp_path, kind, told):
    with pytest.raises(DataError, match=f"partition careless: .*{told}"):
        prepare(Points(Careless(kind)), seed=0, cache=tmp_path)


@dataclass(frozen=True)
class Absent(Partition):
    def assign(self, labels, num_classes, natural, rng):
        return None


@dataclass(frozen=True)
class Narrow(Partition):
    def assign(self, labels):
        return None


@pytest.mark.parametrize(
    ("partition", "told"),
    [
        (Absent(), r"partition absent: assign\(\) returned NoneType, but must return an Assignment"),
        (Narrow(), r"partition narrow: assign\(\) raised TypeError: "),
    ],
)
def test_a_users_partition_that_is_no_partition_is_told(tmp_path, partition, told):
    with pytest.raises(DataError, match=told):
        prepare(Points(partition), seed=0, cache=tmp_path)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (None, r"load\(\) returned NoneType, but must return a muster.data.dataset.Raw"),
        ((1, 2), r"load\(\) returned tuple, but must"),
        (changed(RAW, train=Examples([[0.0, 1.0]], [0])), "train needs x as a NumPy array, not list"),
        (changed(RAW, test=Examples(TEST.x, [0] * 4)), "test needs y as a NumPy array, not list"),
    ],
)
def test_a_load_that_returns_something_else_is_told(tmp_path, monkeypatch, raw, told):
    monkeypatch.setattr(Broken, "load", lambda self: raw)
    with pytest.raises(DataError, match=f"data set broken: {told}"):
        prepare(Broken(), seed=0, cache=tmp_path)


def test_more_clients_than_examples_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="use at most 1438 clients"):
        prepare(Digits(Iid(1439)), seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not (Path(os.environ.get("MUSTER_DATA") or "/nonexistent") / "fashion-mnist").is_dir(),
    reason="MUSTER_DATA has no fashion-mnist",
)
def test_prepared_fashion_mnist_holds_all_60000_images(tmp_path):
    data = prepare(FashionMNIST(Dirichlet(100, 0.5)), seed=0, cache=tmp_path)
    assert data.num_clients == 100
    assert data.num_examples.sum() == 60_000
    counts = sum(np.bincount(data.client(i).y, minlength=10) for i in range(100))
    assert counts.tolist() == [6_000] * 10
    assert len(data.test) == 10_000

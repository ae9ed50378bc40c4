import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from muster.core.errors import DataError
from muster.data.fashion_mnist import FILES, FashionMNIST, read_idx

REAL = Path(os.environ.get("MUSTER_DATA") or "/nonexistent") / "fashion-mnist"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="MUSTER_DATA has no fashion-mnist")


def idx_images(pixels):
    return struct.pack(">IIII", 2051, *pixels.shape) + pixels.tobytes()


def test_reads_images_and_labels_by_hand(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_images(pixels)))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9])))
    np.testing.assert_array_equal(read_idx(tmp_path / "images.gz"), pixels)
    assert read_idx(tmp_path / "labels.gz").tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b""), "starts with nothing"),
        (gzip.compress(b"\x00\x00\x0d\x01" + bytes(20)), "starts with 00000d01"),
        (gzip.compress(struct.pack(">IIII", 2051, 2, 3, 4) + bytes(23)), "announces .* holds 23"),
        (gzip.compress(struct.pack(">II", 2049, 3)[:6]), "starts with 00000801"),
        (gzip.compress(bytes(1000))[:-9], "damaged or cut short"),
        (b"not a gzip file", "damaged or cut short"),
    ],
    # not the bytes, which hold the time
    ids=["empty", "magic of floats", "too short", "no count", "cut gzip", "no gzip"],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, content, told):
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"images\.gz.*{told}.*fetch it again"):
        read_idx(tmp_path / "images.gz")


def test_unset_variable_says_what_to_set(monkeypatch):
    monkeypatch.delenv("MUSTER_DATA", raising=False)
    with pytest.raises(DataError, match="MUSTER_DATA is not set; set MUSTER_DATA to the folder that holds"):
        FashionMNIST().load()


def test_missing_folder_and_missing_file_say_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=rf"the folder {tmp_path}/fashion-mnist does not exist; set MUSTER_DATA"
    ):
        FashionMNIST().load()
    for name in FILES[1:]:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{FILES[0]} not found in {tmp_path}"):
        FashionMNIST(root=str(tmp_path)).load()


def test_other_counts_are_refused(tmp_path):
    for name in FILES:
        one = (
            idx_images(np.zeros((1, 28, 28), np.uint8))
            if "images" in name
            else bytes([0, 0, 8, 1, 0, 0, 0, 1, 0])
        )
        (tmp_path / name).write_bytes(gzip.compress(one))
    with pytest.raises(DataError, match="must have 60000 images of 28 x 28"):
        FashionMNIST(root=str(tmp_path)).load()


def test_its_name_in_a_job_file():
    assert FashionMNIST.part_name() == "fashion_mnist"


@needs_data
def test_the_real_files_hold_what_is_published():
    raw = FashionMNIST(root=str(REAL)).load()
    assert raw.train.x.shape == (60_000, 1, 28, 28)
    assert raw.test.x.shape == (10_000, 1, 28, 28)
    assert np.bincount(raw.train.y).tolist() == [6_000] * 10
    assert np.bincount(raw.test.y).tolist() == [1_000] * 10
    assert raw.train.y[:5].tolist() == [9, 0, 0, 3, 0]
    assert raw.train.x.mean() / 255 == pytest.approx(raw.facts.mean, abs=5e-5)
    assert raw.train.x.std() / 255 == pytest.approx(raw.facts.std, abs=5e-5)


@needs_data
def test_a_real_file_cut_short_is_told(tmp_path):
    for name in FILES:
        shutil.copyfile(REAL / name, tmp_path / name)
    labels = tmp_path / FILES[1]
    labels.write_bytes(labels.read_bytes()[:20_000])
    with pytest.raises(DataError, match=f"{FILES[1]} is damaged or cut short"):
        FashionMNIST(root=str(tmp_path)).load()

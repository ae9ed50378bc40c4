"""What is to outlive a power cut: content first, then the name, then the folder that holds the name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from muster import checkpoint
from muster.core.durable import make_folder, sync, take_place
from muster.core.store import ClientStore, encode
from muster.deploy.lasting import Lasting
from muster.net import certs
from muster.net.journal import Journal
from muster.track.folder import RECORDS, RunFolder, write_whole
from worlds.disk import written_down


def test_a_folder_and_all_that_were_missing_above_it_are_kept_from_the_top_down(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        make_folder(tmp_path / "a" / "b" / "c")
        assert told == ["sync .", "sync a", "sync a/b"]
        make_folder(tmp_path / "a" / "b")  # it is there
    assert len(told) == 3
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_who_takes_a_place_is_the_new_one_or_the_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    with written_down(tmp_path) as told:
        take_place(tmp_path / "new", tmp_path / "old")
    assert told == ["name old", "sync ."]
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "new")


def test_a_whole_file_is_synced_before_it_has_its_name(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        write_whole(tmp_path / "model", b"1")
    assert told == ["sync .model.aside", "name model", "sync ."]


def test_a_key_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        certs.write_file(tmp_path / "certs" / "ca.key", b"1", 0o600)
    assert told == ["sync .", "sync certs/.ca.key.aside", "name certs/ca.key", "sync certs"]


def test_a_run_folders_own_name_is_kept(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        RunFolder.create(tmp_path / "runs" / "one", "seed: 1\n")
    assert told[:2] == ["sync .", "sync runs"]
    assert told[-2:] == ["name runs/one/job.yml", "sync runs/one"]


def test_a_journal_has_its_name_before_it_has_a_line(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        Journal(tmp_path).close()
    assert told == ["sync ."]


def test_a_checkpoint_is_all_there_before_it_has_its_name_and_the_records_before_it(tmp_path: Path) -> None:
    (tmp_path / RECORDS).write_text("")
    with written_down(tmp_path) as told:
        checkpoint.write(tmp_path, 3, {"a": 1}, {"x": np.zeros(2)}, keep=1)
    aside = "checkpoints/.aside-00000003"
    assert told == [
        "sync .",
        f"sync {RECORDS}",
        f"sync {aside}/tensors.safetensors",
        f"sync {aside}/control.json",
        f"sync {aside}",
        "name checkpoints/00000003",
        "sync checkpoints",
    ]


def test_what_is_kept_of_clients_is_found_again_when_it_is_saved(tmp_path: Path) -> None:
    store = ClientStore(tmp_path / "clients")
    with written_down(tmp_path) as told:
        store.write(1, encode({"x": np.zeros(2)}))
        store.save()
    store.close()
    assert told == ["sync .", "sync clients/clients-0000.log", "sync clients"]


def test_what_a_client_keeps_is_found_again(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        Lasting(tmp_path / "home").offer(7, b"state")
    assert told == ["sync .", "sync home/.7.state.aside", "name home/7.state", "sync home"]

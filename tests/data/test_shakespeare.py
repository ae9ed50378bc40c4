import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from muster.core.errors import DataError, FieldError
from muster.data.shakespeare import Shakespeare, read_plays, read_tiny

REAL = Path(os.environ.get("MUSTER_DATA") or "/nonexistent") / "shakespeare"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="MUSTER_DATA has no shakespeare")


def tiny_at(folder, text):
    (folder / "tinyshakespeare.txt").write_text(text, encoding="utf-8")
    return str(folder)


def said(facts, codes):
    return "".join(facts.vocabulary[code] for code in codes)


def test_windows_by_hand(tmp_path):
    # B says 3 characters: too few for a training window and its target.
    root = tiny_at(tmp_path, "A:\nabc  def\nghi\n\nB:\nxyz\n\nA:\njklmn opq\n")
    raw = Shakespeare(text="tiny", window=2, stride=3, root=root).load()
    assert said(raw.facts, raw.train.text) == "abc def ghi jklmn opqxyz"
    assert raw.facts.vocabulary == " abcdefghijklmnopqxyz"
    assert raw.facts.num_classes == 21
    assert raw.facts.input_shape == (2,)
    assert raw.natural_names == ("A", "B")
    # 21 characters: the last round(.2 x 21) = 4 are for testing. Windows start at 0, 3, ..., 12; at 15 the
    # target would be the 18th character, which is the first of the test part.
    assert raw.train.x.tolist() == [0, 3, 6, 9, 12]
    assert said(raw.facts, raw.train.y) == "ceg l"
    assert raw.natural.tolist() == [0, 0, 0, 0, 0]
    assert raw.test.x.tolist() == [17]
    assert said(raw.facts, raw.test.y) == "p"


def test_tiny_blocks(tmp_path):
    text = "First Citizen:\nSpeak,\nspeak.\n\nAll:\n\n\nFirst Citizen:\nYou: all\nresolved\n"
    tiny_at(tmp_path, text)
    roles = read_tiny(tmp_path / "tinyshakespeare.txt")
    assert roles == {"First Citizen": ["Speak,\nspeak.", "You: all\nresolved"]}


def test_plays_by_hand(tmp_path):
    page = (
        "<h3>ACT I</h3><i>Enter X</i>\n<A NAME=speech1><b>KING  X </b></a>\n<blockquote>\n"
        "<A NAME=1.1.1>So shaken &amp; wan</A><br>\n<p><i>Exit</i></p><A NAME=1.1.2>we are\t</A><br>\n"
        "</blockquote><A NAME=speech2><b>Y</b></a>\n\n<A NAME=speech3><b>Z</b></a><A NAME=1.1.3>Caf\xe9</A>"
    )
    with zipfile.ZipFile(tmp_path / "plays.zip", "w") as archive:
        archive.writestr("x/full.html", page.encode("latin-1"))
    assert read_plays(tmp_path / "plays.zip") == {
        "x/KING X": ["So shaken & wan we are\t"],
        "x/Z": ["Caf\xe9"],
    }


def test_max_test_draws_the_same_windows_each_time(tmp_path):
    root = tiny_at(tmp_path, "A:\n" + "abcde fghij " * 300)
    every = Shakespeare(text="tiny", window=5, stride=1, max_test=None, root=root).load().test.x
    some = [Shakespeare(text="tiny", window=5, stride=1, max_test=50, root=root).load().test.x for _ in "ab"]
    assert len(some[0]) == len(np.unique(some[0])) == 50
    assert np.isin(some[0], every).all()
    np.testing.assert_array_equal(*some)


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b""])
def test_a_broken_zip_is_told(tmp_path, content):
    (tmp_path / "mit-plays-full-html.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"mit-plays-full-html\.zip is damaged or cut short"):
        Shakespeare(root=str(tmp_path)).load()


def test_a_text_of_another_format_is_told(tmp_path):
    with pytest.raises(DataError, match="holds no speech"):
        Shakespeare(text="tiny", root=tiny_at(tmp_path, "nothing here\n")).load()


def test_a_window_longer_than_all_speeches_is_told(tmp_path):
    with pytest.raises(DataError, match=r"lower shakespeare\.window"):
        Shakespeare(text="tiny", root=tiny_at(tmp_path, "A:\nshort\n")).load()


def test_fields_are_checked():
    with pytest.raises(FieldError, match="did you mean 'plays'"):
        Shakespeare(text="play")
    for wrong in ({"window": 0}, {"stride": 1.5}, {"max_test": -1}, {"test_fraction": 1.0}):
        with pytest.raises(FieldError, match="must be"):
            Shakespeare(**wrong)


@needs_data
def test_tinyshakespeare_has_299_roles():
    roles = read_tiny(REAL / "tinyshakespeare.txt")
    assert len(roles) == 299
    assert sum(len(speeches) for speeches in roles.values()) == 7_097
    facts = Shakespeare(text="tiny", root=str(REAL)).load().facts
    assert facts.num_classes == 64  # the file has 65 characters, of which the newline became a space


@needs_data
def test_the_plays_have_1346_roles():
    roles = read_plays(REAL / "mit-plays-full-html.zip")
    assert len(roles) == 1_346
    assert sum(len(speeches) for speeches in roles.values()) == 30_913
    assert len({role.split("/")[0] for role in roles}) == 37
    assert "hamlet/HAMLET" in roles


@needs_data
def test_no_window_crosses_a_role_or_the_test_split():
    raw = Shakespeare(root=str(REAL), max_test=None).load()
    assert raw.facts.num_classes == 75
    assert raw.train.text.size == pytest.approx(4.34e6, rel=0.01)
    assert len(raw.train) + len(raw.test) == pytest.approx(4.34e6 / 20, rel=0.05)
    read = np.zeros(raw.train.text.size, bool)
    read[(raw.train.x[:, None] + np.arange(81)).ravel()] = True
    assert not read[(raw.test.x[:, None] + np.arange(81)).ravel()].any()
    np.testing.assert_array_equal(raw.train.text[raw.train.x + 80], raw.train.y)

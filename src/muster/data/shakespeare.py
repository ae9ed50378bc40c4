"""Shakespeare: predict the next character of what a speaking role says; a role is a client.

The task of McMahan et al. 2017 and of LEAF (Caldas et al. 2018): 80 characters in, the 81st out.
Two texts: the 37 plays (the Moby edition as HTML pages), and the short `tinyshakespeare.txt`.
"""

from __future__ import annotations

import html
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError, FieldError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.data.dataset import DataSet, Raw, source_files
from muster.data.partition import Natural, Partition

FILES = {"plays": "mit-plays-full-html.zip", "tiny": "tinyshakespeare.txt"}
SPLIT_SEED = 0


@dataclass(frozen=True)
class Shakespeare(DataSet):
    """Windows of what roles say, each followed by the character to predict.

    Newlines and runs of spaces become one space. A role's first 80 % are for training, its last 20 %
    for testing; no window crosses that border or two roles. The vocabulary is every character of the
    text: 75 for the plays, 64 for `tiny`. The test windows are the same whatever the partition.
    """

    task: ClassVar[str] = "next_character"
    partition: Partition = field(default_factory=lambda: Natural(min_examples=10))
    text: Literal["plays", "tiny"] = "plays"
    """`plays`: 37 plays, a client is a role of one play. `tiny`: 1.1 MB, a client is a role's name."""
    window: int = 80
    """Characters that the model sees."""
    stride: int = 20
    """Characters between the starts of two windows. LEAF has 1, which is 20 times the work for
    windows that differ by one character: 20 trains on a CPU."""
    test_fraction: float = 0.2
    """Share of each role's text, at its end, that is kept for testing."""
    max_test: int | None = 2000
    """Test windows in all, drawn once by a fixed key; all of them if null."""
    root: str | None = None
    """Folder of the text; by default `$MUSTER_DATA/shakespeare`."""

    def __post_init__(self) -> None:
        self.check_choice("text", tuple(FILES))
        self.check_number("test_fraction", at_least=0.01, at_most=0.9)
        for name in ("window", "stride", "max_test"):
            self.check_number(name, at_least=1)
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise FieldError(self.part_name(), name, value, "a whole number at least 1")

    def sources(self) -> Sequence[Path]:
        """The one file of the chosen text.

        Raises:
            DataError: It is missing; says where it was looked for.
        """
        return source_files(self.part_name(), self.root, "shakespeare", [FILES[self.text]])

    def load(self) -> Raw:
        """All roles that have one training window at least are natural clients."""
        (path,) = self.sources()
        speeches = read_plays(path) if self.text == "plays" else read_tiny(path)
        roles = {role: " ".join(" ".join(said).split()) for role, said in speeches.items()}
        vocabulary = "".join(sorted(set().union(*roles.values())))
        codes = _encoded("".join(roles.values()), vocabulary)
        train, test, natural = self._windows([len(said) for said in roles.values()])
        if len(train) == 0 or len(test) == 0:
            raise DataError(
                f"{path} has no role with {self.window + 1} characters on both sides of the test split; "
                "lower shakespeare.window"
            )
        if self.max_test is not None and len(test) > self.max_test:
            test = np.sort(rng(SPLIT_SEED, "shakespeare test").choice(test, self.max_test, replace=False))
        facts = Facts("shakespeare", (self.window,), num_classes=len(vocabulary), vocabulary=vocabulary)
        return Raw(facts, self._examples(train, codes), self._examples(test, codes), natural, tuple(roles))

    def _windows(
        self, lengths: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Starts of training and test windows in the joined text, and the role of each training one."""
        train, test, role_of = [], [], []
        begin = 0
        for role, length in enumerate(lengths):
            end = begin + length
            border = end - round(self.test_fraction * length)
            # A window that starts at s needs its target, s + window, before the end.
            train.append(np.arange(begin, border - self.window, self.stride, dtype=np.int64))
            test.append(np.arange(border, end - self.window, self.stride, dtype=np.int64))
            role_of.append(np.full(len(train[-1]), role, np.int32))
            begin = end
        return np.concatenate(train), np.concatenate(test), np.concatenate(role_of)

    def _examples(self, starts: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> Examples:
        return Examples(starts, codes[starts + self.window].astype(np.int64), codes)


def read_tiny(path: Path) -> Mapping[str, list[str]]:
    """Speeches by role of `tinyshakespeare.txt`: blocks of `ROLE:` and lines, between blank lines.

    Blocks that are a role's name without a line are left out.

    Raises:
        DataError: The file cannot be read or holds no such block.
    """
    try:
        blocks = path.read_text(encoding="utf-8").split("\n\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a UTF-8 text: {error}; fetch it again") from error
    roles: dict[str, list[str]] = {}
    for block in blocks:
        role, colon, said = block.strip("\n").partition(":\n")
        if colon and "\n" not in role:
            roles.setdefault(role, []).append(said)
    return _some(roles, path)


def read_plays(path: Path) -> Mapping[str, list[str]]:
    """Speeches by `play/ROLE` of the zipped HTML pages; stage directions are left out.

    Raises:
        DataError: The zip is damaged or holds no play in that format.
    """
    speech = re.compile(r"<A NAME=speech\d+><b>(.*?)</b></a>", re.IGNORECASE | re.DOTALL)
    line = re.compile(r"<A NAME=\d+\.\d+\.\d+>(.*?)</A>", re.IGNORECASE | re.DOTALL)
    roles: dict[str, list[str]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            pages = {name: archive.read(name).decode("latin-1") for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    for name, page in pages.items():
        play = name.split("/")[0]
        _, *pieces = speech.split(page)  # what follows a speech's heading, up to the next one, is the speech
        for heading, body in zip(pieces[::2], pieces[1::2], strict=True):
            lines = [html.unescape(said) for said in line.findall(body)]
            if any(said.strip() for said in lines):
                role = " ".join(html.unescape(heading).split())
                roles.setdefault(f"{play}/{role}", []).append(" ".join(lines))
    return _some(roles, path)


def _some(roles: dict[str, list[str]], path: Path) -> Mapping[str, list[str]]:
    if not roles:
        raise DataError(f"{path} holds no speech in the format of this text; fetch it again")
    return roles


def _encoded(text: str, vocabulary: str) -> npt.NDArray[np.uint8]:
    """u8[T]: the place in `vocabulary` (sorted, at most 256 characters) of each character."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(vocabulary.encode("utf-32-le"), np.uint32)
    return np.searchsorted(known, points).astype(np.uint8)

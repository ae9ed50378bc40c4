import os

import pytest

from muster.core.errors import DataError
from muster.core.part import dumps, known, loads, user_module
from muster.data.dataset import DataSet
from muster.data.digits import Digits
from muster.data.partition import Iid

OWN = """
from dataclasses import dataclass, field
from pathlib import Path
import numpy as np
from muster.data.dataset import DataSet, Raw
from muster.core.examples import Examples, Facts
from muster.data.partition import Iid, Partition

@dataclass(frozen=True)
class Points(DataSet):
    partition: Partition = field(default_factory=lambda: Iid(3))
    file: str = ""

    def sources(self):
        return [Path(self.file)] if self.file else []

    def load(self):
        x = np.arange(20, dtype=np.float32).reshape(10, 2)
        some = Examples(x, np.arange(10) % 2)
        return Raw(Facts("points", (2,), num_classes=2), some, some)
"""


def test_built_in_sets_are_found_by_name_and_go_through_json():
    found = known("muster.data", DataSet)
    assert list(found) == ["digits", "fashion_mnist", "shakespeare"]
    assert [cls.task for cls in found.values()] == ["classification", "classification", "next_character"]
    for cls in found.values():
        other = cls(partition=Iid(7))
        assert loads(dumps(other)) == other


def test_fingerprint_changes_with_a_source_and_with_the_users_own_code(tmp_path):
    (tmp_path / "a.py").write_text(OWN)
    (tmp_path / "b.py").write_text(OWN + "# edited\n")
    source = tmp_path / "points.csv"
    source.write_text("1,2")
    points = user_module(tmp_path / "a.py").Points
    before = points(file=str(source)).fingerprint()
    assert before == points(file=str(source)).fingerprint()
    assert before != user_module(tmp_path / "b.py").Points(file=str(source)).fingerprint()
    source.write_text("1,3")
    assert before != points(file=str(source)).fingerprint()


def test_fingerprint_changes_with_the_users_own_partition(tmp_path):
    prints = set()
    for name, comment in (("a", ""), ("b", "# edited\n")):
        (tmp_path / f"{name}.py").write_text(
            "from dataclasses import dataclass\nfrom muster.data.partition import Iid\n"
            f"@dataclass(frozen=True)\nclass Odd(Iid):\n    pass\n{comment}"
        )
        prints.add(Digits(user_module(tmp_path / f"{name}.py").Odd(3)).fingerprint())
    prints.add(Digits(Iid(3)).fingerprint())
    assert len(prints) == 3


def test_a_source_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    points = user_module(tmp_path / "own.py").Points(file=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=rf"cannot read .*gone.csv: {os.strerror(2)}"):
        points.fingerprint()

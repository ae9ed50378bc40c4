"""Parts: names, checks, JSON, and how they are found again."""

from __future__ import annotations

import importlib
import json
import math
import sys
import textwrap
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedavg import SGD, Add, Mean, Sync, fedavg
from muster.algorithms.fedbuff import fedbuff
from muster.algorithms.fedyogi import Yogi, fedyogi
from muster.core.algorithm import Local, Pace, Server
from muster.core.errors import FieldError, UserError
from muster.core.part import (
    Part,
    dumps,
    from_json,
    known,
    loads,
    reference,
    resolve,
    to_json,
    user_module,
)
from muster.core.work import Work

steady = settings(deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Bounds(Part):
    """A part with one number of each sort of bound."""

    rate: float = 0.5
    count: int = 3
    cap: float | None = None

    def __post_init__(self) -> None:
        self.check_number("rate", above=0, below=1)
        self.check_number("count", at_least=1, at_most=10**300)
        self.check_number("cap", above=0)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [("AlwaysOn", "always_on"), ("SGD", "sgd"), ("ConvNet2", "conv_net2"), ("A1B", "a1_b"), ("Sync", "sync")],
)
def test_the_name_of_a_part_is_its_class_in_small_letters(class_name, name):
    assert type(class_name, (Part,), {}).part_name() == name


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan, math.inf, -math.inf, True, False, "0.5", [0.5]])
def test_numbers_out_of_bounds_are_refused(rate):
    with pytest.raises(
        FieldError, match=r"^bounds\.rate is .*, but must be a finite number above 0 and below 1$"
    ):
        Bounds(rate=rate)


@pytest.mark.parametrize("count", [0, -1, 2.0, 2.5, math.nan, math.inf, True, "3"])
def test_a_count_must_be_an_integer(count):
    with pytest.raises(FieldError, match="must be an integer at least 1"):
        Bounds(count=count)


def test_a_count_too_large_for_a_float_is_compared_all_the_same():
    assert Bounds(count=10**300).count == 10**300
    with pytest.raises(FieldError):
        Bounds(count=10**400)


def test_the_bounds_themselves():
    assert Bounds(rate=1e-300, count=1).count == 1
    assert Bounds(rate=math.nextafter(1, 0)).rate < 1


def test_none_passes_only_where_it_is_the_value():
    assert Bounds(cap=None).cap is None
    for cap in (0, math.nan, -1):
        with pytest.raises(FieldError, match=r"bounds\.cap"):
            Bounds(cap=cap)


def test_a_choice_that_is_not_one_gets_the_nearest():
    with pytest.raises(FieldError) as caught:
        Mean(by="example")
    assert str(caught.value) == (
        "mean.by is 'example', but must be one of examples, uniform, steps; did you mean 'examples'?"
    )


@pytest.mark.parametrize("algorithm", [fedavg(), fedyogi(), fedbuff()], ids=lambda a: a.name)
def test_algorithms_go_through_json(algorithm):
    assert loads(dumps(algorithm)) == algorithm


@steady
@given(
    lr=st.floats(1e-9, 1e9),
    momentum=st.floats(0, 0.999),
    clip=st.none() | st.floats(1e-6, 1e6),
    cohort=st.integers(1, 10**9),
)
def test_every_setting_survives_json_to_the_bit(lr, momentum, clip, cohort):
    algorithm = fedavg().but(local=SGD(lr, momentum, 0.0, clip), pace=Sync(cohort))
    assert loads(dumps(algorithm)) == algorithm


def test_json_is_plain_and_names_the_class():
    assert to_json(Add(0.5)) == {"part": "muster.algorithms.fedavg:Add", "lr": 0.5}
    assert json.loads(dumps(Work(steps=3))) == {
        "part": "muster.core.work:Work",
        "epochs": 1,
        "steps": 3,
        "batch_size": 20,
    }


def test_sequences_come_back_as_tuples_and_mappings_as_mappings():
    value = {"a": (1, (2.5, None)), "b": {"c": Add()}, "d": "text", "e": True}
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize("place", ["subprocess:run", "builtins:dict", "muster.algorithms.fedavg:fedavg"])
def test_json_builds_dataclasses_and_nothing_else(place):
    with pytest.raises(UserError, match="no part"):
        from_json({"part": place})


def test_a_bad_value_in_json_is_refused_by_the_part():
    with pytest.raises(FieldError, match=r"add\.lr"):
        from_json({"part": "muster.algorithms.fedavg:Add", "lr": -1.0})


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("muster.algorithms.fedavg:Ad", "has no 'Ad'; did you mean 'Add'"),
        ("muster.no_such_room:Add", "cannot be imported: No module named 'muster.no_such_room'"),
        ("Add", "is no reference"),
        ("/no/such/file.py:Add", "does not exist"),
    ],
)
def test_a_reference_that_leads_nowhere(ref, says):
    with pytest.raises(UserError, match=says):
        resolve(ref)


def test_our_parts_are_referred_to_by_module():
    assert reference(Yogi) == "muster.algorithms.fedyogi:Yogi"
    assert resolve("muster.algorithms.fedyogi:Yogi") is Yogi


MINE = """
    from dataclasses import dataclass
    from muster.algorithms.fedavg import Add

    @dataclass(frozen=True)
    class Half(Add):
        factor: float = FACTOR
"""


def write(path, factor=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(MINE).replace("FACTOR", str(factor)))
    return path


def test_a_users_class_is_found_again_by_its_file(tmp_path):
    path = write(tmp_path / "mine.py")
    half = resolve(f"{path}:Half")
    assert half().factor == 0.5
    assert reference(half) == f"{path}:Half"
    assert loads(dumps(half(lr=2.0))) == half(lr=2.0)
    assert resolve(f"{path}:Half") is half, "imported once"


def test_two_files_of_one_name_are_two_modules(tmp_path):
    one, two = (resolve(f"{write(tmp_path / d / 'mine.py', f)}:Half") for d, f in (("a", 0.25), ("b", 0.75)))
    assert (one().factor, two().factor) == (0.25, 0.75)
    assert one is not two and reference(one) != reference(two)
    assert loads(dumps(one())) == one() and loads(dumps(two())) == two()


def test_a_users_file_may_have_the_name_of_a_module_of_pythons(tmp_path):
    path = write(tmp_path / "json.py")
    assert resolve(f"{path}:Half")().factor == 0.5
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class Half(:\n", r"mine.py could not be imported: SyntaxError: invalid syntax \(mine.py, line 1\)"),
        ("import no_such_thing_at_all\n", "ModuleNotFoundError: No module named 'no_such_thing_at_all'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_file_says_why_and_can_be_mended(tmp_path, text, says):
    path = tmp_path / "mine.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(UserError, match=says):
        user_module(path)
    assert set(sys.modules) - before <= {"no_such_thing_at_all"}
    importlib.invalidate_caches()
    assert resolve(f"{write(path, 0.125)}:Half")().factor == 0.125


def test_known_parts_are_final_and_found_by_name():
    assert {"add": Add, "yogi": Yogi}.items() <= known("muster.algorithms", Server).items()
    assert {"buffered", "sync"} <= set(known("muster.algorithms", Pace))
    assert known("muster.algorithms", Local)["sgd"] is SGD


def test_two_parts_of_one_name_in_a_room_are_refused(tmp_path, monkeypatch):
    room = tmp_path / "muster_test_room"
    write(room / "one.py"), write(room / "two.py")
    (room / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"one:Half and .*two:Half are both named 'half'"):
        known("muster_test_room", Server)

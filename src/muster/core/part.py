"""A part: a frozen dataclass whose fields are its settings, so that it is its own configuration.

The five parts of an algorithm, data sets, partitions, models, tasks and device populations are all
parts. A part prints, compares and goes through JSON; checks its own fields; and is found by name:
`sgd` is class `SGD` in the room `muster.algorithms`, `my_model.py:Net` is class `Net` in a user's file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import operator
import pkgutil
import re
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Mapping, TypeVar, cast

from .errors import FieldError, UserError, nearest

P = TypeVar("P", bound="Part")


class Part:
    """Base of all parts. A subclass is abstract (a room's interface) or a final frozen dataclass.

    The attribute below is read by the job file's loader: unknown keys are refused, and the docstring
    under a field is its description in the JSON schema.
    """

    __pydantic_config__ = {"extra": "forbid", "use_attribute_docstrings": True}

    @classmethod
    def part_name(cls) -> str:
        """The name by which a job file asks for this class, e.g. `always_on` for `AlwaysOn`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def check_number(
        self,
        field: str,
        *,
        above: float | None = None,
        at_least: float | None = None,
        below: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Raises FieldError unless the field is a finite number within the bounds. None passes."""
        value = getattr(self, field)
        if value is None:
            return
        bounds = [
            ("above", above, operator.gt),
            ("at least", at_least, operator.ge),
            ("below", below, operator.lt),
            ("at most", at_most, operator.le),
        ]
        whole = _is_whole(type(self), field)
        ok = not isinstance(value, bool) and isinstance(value, int if whole else (int, float))
        ok = ok and (isinstance(value, int) or math.isfinite(value))
        ok = ok and all(test(value, bound) for _, bound, test in bounds if bound is not None)
        if not ok:
            limits = " and ".join(f"{word} {bound:g}" for word, bound, _ in bounds if bound is not None)
            kind = "an integer" if whole else "a finite number"
            raise FieldError(self.part_name(), field, value, f"{kind} {limits}".rstrip())

    def check_choice(self, field: str, choices: tuple[str, ...]) -> None:
        """Raises FieldError unless the field is one of `choices`."""
        value = getattr(self, field)
        if value not in choices:
            hint = nearest(str(value), choices)
            raise FieldError(self.part_name(), field, value, f"one of {', '.join(choices)}{hint}")


def _is_whole(cls: type, field: str) -> bool:
    """Whether a field is declared as `int` or `int | None`, as text or as a type."""
    declared = getattr(cls, "__dataclass_fields__", {}).get(field)
    kind = getattr(declared, "type", None)
    return kind is int or str(kind).replace(" ", "") in ("int", "int|None")


def reference(cls: type) -> str:
    """Where a class can be found again: `package.module:Class`, or `/path/file.py:Class` for a user's."""
    file = getattr(sys.modules.get(cls.__module__), "__muster_file__", None)
    return f"{file or cls.__module__}:{cls.__name__}"


def resolve(ref: str) -> Any:
    """The object that `package.module:Name` or `path/file.py:Name` refers to.

    Raises:
        UserError: The file or module is missing, does not import, or has no such name.
    """
    place, _, name = ref.rpartition(":")
    if not place:
        raise UserError(f"{ref!r} is no reference; write package.module:Name or path/file.py:Name")
    try:
        module = user_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ImportError as error:
        raise UserError(f"{ref!r} cannot be imported: {error}") from error
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UserError(f"{place} has no {name!r}{nearest(name, public)}")
    return getattr(module, name)


def user_module(path: Path) -> ModuleType:
    """A user's Python file as a module, imported once per process, under a name made from its path.

    Raises:
        UserError: The file does not exist or raises while it is imported.
    """
    path = path.expanduser().resolve()
    name = f"muster_user_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UserError(f"the Python file {path} does not exist")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__muster_file__"] = str(path)
    sys.modules[name] = module  # before it runs, so that dataclasses in it can look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    return module


@cache
def known(room: str, base: type[P]) -> Mapping[str, type[P]]:
    """All parts of kind `base` in the modules of the package `room`, by their job-file name.

    Those that are no part yet, since a method is abstract, are none.

    Raises:
        ValueError: Two of them have the same name; a job file could only ask for one.
    """
    package = importlib.import_module(room)
    found: dict[str, type[P]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{room}.{info.name}")
        for thing in vars(module).values():
            if not (
                isinstance(thing, type) and issubclass(thing, base) and "__dataclass_fields__" in vars(thing)
            ):
                continue
            if inspect.isabstract(thing):
                continue
            name = thing.part_name()
            if found.setdefault(name, thing) is not thing:
                both = f"{reference(found[name])} and {reference(thing)}"
                raise ValueError(f"{both} are both named {name!r}")
    return dict(sorted(found.items()))


def to_json(value: Any) -> Any:
    """A part (or a tuple, number, string, None in it) as plain JSON data, classes by reference."""
    if is_dataclass(value):
        body = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"part": reference(type(value)), **body}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`: `from_json(json.loads(json.dumps(to_json(part)))) == part`."""
    if isinstance(value, dict):
        if "part" not in value:
            return {k: from_json(v) for k, v in value.items()}
        cls = resolve(value["part"])
        if not (isinstance(cls, type) and is_dataclass(cls)):
            raise UserError(f"{value['part']} is no part: only dataclasses are built from JSON")
        return cls(**{k: from_json(v) for k, v in value.items() if k != "part"})
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value


def dumps(part: object) -> str:
    """One line of JSON from which `loads` makes an equal part, in this process or another."""
    return json.dumps(to_json(part), sort_keys=True)


def loads(text: str) -> Any:
    """The part that `dumps` wrote."""
    return cast(Any, from_json(json.loads(text)))

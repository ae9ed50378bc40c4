"""What a job file can name: our own parts by name, a user's by `path/file.py:Class`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from muster.core.algorithm import Algorithm, Combine, Local, Pace, Select, Server
from muster.core.errors import JobError, UserError, nearest
from muster.core.part import Part, known, reference, resolve
from muster.data.dataset import DataSet
from muster.data.partition import Partition
from muster.devices.devices import Devices
from muster.learn.client import Client, OwnClient, check_client
from muster.models.model import Model
from muster.models.own import OwnModel
from muster.tasks.task import Task
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress

NAMED: Mapping[type[Part], tuple[str, str]] = {
    DataSet: ("muster.data", "data set"),
    Partition: ("muster.data", "partition"),
    Model: ("muster.models", "model"),
    Task: ("muster.tasks", "task"),
    Devices: ("muster.devices", "population"),
    Compress: ("muster.uploads", "compression"),
    Attack: ("muster.uploads", "attack"),
    Select: ("muster.algorithms", "select"),
    Pace: ("muster.algorithms", "pace"),
    Local: ("muster.algorithms", "local"),
    Combine: ("muster.algorithms", "combine"),
    Server: ("muster.algorithms", "server"),
}
"""The kinds of parts that are asked for by name: the room they live in and what a message calls them."""

SECTIONS: dict[str, type[Part]] = {
    "select": Select,
    "pace": Pace,
    "local": Local,
    "combine": Combine,
    "server": Server,
}
"""The sections of `algorithm`."""


def parts(base: type[Part]) -> Mapping[str, type[Part]]:
    """The parts of kind `base` that Muster brings, by name, in alphabetical order."""
    hidden = (OwnModel, OwnClient)
    found: Mapping[str, type[Part]] = known(NAMED[base][0], cast(Any, base))  # mypy: a class is hashable
    return {name: cls for name, cls in found.items() if cls not in hidden}


def algorithms() -> Mapping[str, Callable[[], Algorithm]]:
    """The algorithms that Muster brings: the function of its own name in each module of the room."""
    import muster.algorithms as room

    found = {}
    for info in pkgutil.iter_modules(room.__path__):
        build = getattr(importlib.import_module(f"{room.__name__}.{info.name}"), info.name, None)
        if inspect.isfunction(build):
            found[info.name] = build
    return dict(sorted(found.items()))


def has_fields(cls: object) -> bool:
    """Whether a class is a dataclass."""
    return is_dataclass(cls)


def is_reference(name: str) -> bool:
    """Whether a name says where a thing is (`file.py:Class`, `package.module:Class`)."""
    return ":" in name or name.endswith(".py")


def absolute(ref: str, folder: Path) -> str:
    """A reference with the file's path made absolute, from the job file's `folder`."""
    place, _, name = ref.rpartition(":")
    return f"{(folder / Path(place).expanduser()).resolve()}:{name}" if place.endswith(".py") else ref


def find_algorithm(name: str, folder: Path) -> tuple[str, Callable[[], Algorithm]]:
    """The full name of an algorithm and the function that builds it.

    Raises:
        JobError: There is none of that name; the text reads after the key.
    """
    if is_reference(name):
        ref = absolute(name, folder)
        build = _resolve(ref)
        if not callable(build) or isinstance(build, type):
            raise JobError(f"{name!r} is no function that returns a muster.Algorithm")
        return ref, build
    listed = algorithms()
    if name not in listed:
        raise JobError(_unknown(name, "algorithm", listed))
    return name, listed[name]


def find_part(base: type[Part], name: str, folder: Path) -> tuple[type[Part], str | None]:
    """The class that `name` asks for where a part of kind `base` is wanted.

    A user's class that is no part but can become one (a torch module as a model, a `muster.Client` as
    the local rule) comes back as our part around it, with the absolute reference to the user's class.

    Raises:
        JobError: There is none of that name, or it is not of that kind; the text reads after the key.
    """
    kind = NAMED[base][1]
    if not is_reference(name):
        listed = parts(base)
        if name not in listed:
            raise JobError(_unknown(name, kind, listed))
        return listed[name], None
    ref = absolute(name, folder)
    thing = _resolve(ref)
    if isinstance(thing, type):
        if issubclass(thing, base) and has_fields(thing):
            lacking = sorted(
                n for n in dir(thing) if getattr(getattr(thing, n), "__isabstractmethod__", False)
            )
            if lacking:
                raise JobError(f"{name!r} is a {kind} that lacks {', '.join(lacking)}; write it")
            if base is DataSet and "partition" not in getattr(thing, "__dataclass_fields__", {}):
                raise JobError(f"{name!r} is a data set without a field `partition`; give it one")
            return thing, None
        if issubclass(thing, base):
            raise JobError(
                f"{name!r} is a {kind} without fields; put @dataclass(frozen=True) above the class"
            )
        if base is Local and issubclass(thing, Client):
            try:
                check_client(thing)
            except UserError as error:
                raise JobError(f"{name!r} {error}") from None
            return OwnClient, ref
        if base is Model and _is_torch_module(thing):
            return OwnModel, ref
    extra = {Model: "a torch.nn.Module or ", Local: "a muster.Client or "}.get(base, "")
    raise JobError(f"{name!r} must be {extra}a frozen dataclass that inherits from muster.{base.__name__}")


def label(part: Part) -> str:
    """The name by which a job file asks for this part: short for ours, absolute for a user's."""
    for base, (room, _) in NAMED.items():
        if isinstance(part, base) and type(part).__module__.startswith(f"{room}."):
            return part.part_name()
    return reference(type(part))


def _resolve(ref: str) -> Any:
    if ":" not in ref:
        raise JobError(f"{ref!r} names a file but no class; write file.py:Class")
    try:
        return resolve(ref)
    except UserError as error:
        raise JobError(str(error)) from error


def _unknown(name: str, kind: str, listed: Mapping[str, Any]) -> str:
    hint = nearest(name, listed) or ";"
    return f"{name!r} is not a known {kind}{hint} known: {', '.join(listed)}, or your own file.py:Class"


def _is_torch_module(thing: type) -> bool:
    torch = sys.modules.get("torch")  # a class cannot be a module of a torch that nobody imported
    return torch is not None and issubclass(thing, torch.nn.Module)

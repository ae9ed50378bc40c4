"""From plain data to a `Job`: each section by the type of its field, all mistakes collected.

The field types of the frozen dataclasses are the schema. pydantic checks every plain value against its
field's type in strict mode (`"10"`, `true` and `2.5` are no integers); the parts check bounds themselves.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from muster.core.algorithm import Algorithm
from muster.core.errors import FieldError, JobError, nearest
from muster.core.part import Part, resolve
from muster.data.dataset import DataSet
from muster.devices.devices import Devices
from muster.learn.client import OwnClient
from muster.models.model import Model
from muster.models.own import OwnModel
from muster.tasks.task import Task

from .names import NAMED, SECTIONS, find_algorithm, find_part, has_fields, is_reference, parts
from .settings import Job
from .source import Keys, Source, shown

BAD: Final = object()
"""Stands for a value whose problem has been noted."""

DEFAULTS = {"data": "digits", "model": "mlp", "algorithm": "fedavg", "population": "mobile"}
"""What a job file that is silent about them asks for."""


class Builder:
    """Builds one job from one source; `problems` are pairs of keys (where it is) and a sentence."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[tuple[Keys, str]] = []

    def note(self, keys: Keys, text: str) -> Any:
        """Notes a problem, told by a text that reads after the key, and gives the stand-in."""
        self.problems.append((keys, f"{'.'.join(keys)}{text}"))
        return BAD

    def job(self, name: str) -> Job:
        """The job; `name` is used where the source gives none.

        Raises:
            JobError: The first problem in file order, and how many more there are.
        """
        tree = dict(self.source.tree)
        data = self.part(DataSet, tree.get("data"), ("data",), parts(DataSet)[DEFAULTS["data"]]())
        defaults: dict[str, Any] = {
            "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip(".-")[:100] or "job",
            "data": parts(DataSet)[DEFAULTS["data"]]() if data is BAD else data,
            "model": parts(Model)[DEFAULTS["model"]](),
            "population": parts(Devices)[DEFAULTS["population"]](),
        }
        kind = getattr(defaults["data"], "task", None)
        if isinstance(kind, str) and kind in parts(Task):
            defaults["task"] = parts(Task)[kind]()
        elif "task" not in tree:
            known = ", ".join(parts(Task))
            self.note(
                ("data",), f" has task {shown(kind)}; its class must name one of {known}, or the job a task"
            )
        defaults["algorithm"] = find_algorithm(DEFAULTS["algorithm"], self.source.folder)[1]()
        tree.pop("data", None)
        job = self.fields(Job, tree, (), defaults)
        self.raise_problems()
        assert isinstance(job, Job)
        return job

    def raise_problems(self) -> None:
        """Raises JobError if there are problems."""
        if not self.problems:
            return
        ordered = sorted(self.problems, key=lambda problem: self.source.order(problem[0]))
        keys, text = ordered[0]
        more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
        raise JobError(f"{self.source.where(keys)}{text}{more}")

    def value(self, hint: Any, value: Any, keys: Keys, default: Any) -> Any:
        """A value for a field whose annotation is `hint`."""
        kinds = [kind for kind in _choices(hint) if kind is not NoneType]
        kind = kinds[0]
        if len(kinds) == 1 and isinstance(kind, type):
            if value is None and NoneType in _choices(hint):
                return None
            if kind in NAMED:
                return self.part(kind, value, keys, None if default is MISSING else default)
            if kind is Algorithm:
                return self.algorithm(value, keys)
            if issubclass(kind, Part) and has_fields(kind):
                return self.section(kind, value, keys, default)
        return self.plain(hint, value, keys)

    def section(self, cls: type[Part], value: Any, keys: Keys, default: Any) -> Any:
        """A section of settings that has no name, like `train`; keys that are left out keep the default."""
        if isinstance(value, cls):
            return value
        return self.fields(cls, value, keys, _settings(default) if isinstance(default, cls) else {})

    def part(self, base: type[Part], value: Any, keys: Keys, default: Any) -> Any:
        """A part: a name, a mapping with a name, or a mapping that changes fields of the default."""
        if isinstance(value, base):
            return value
        if value is None and default is not None:
            return default
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            return self.note(keys, f" is {shown(value)}, but must be a name or a mapping with a name")
        body = dict(value)
        if "name" not in body and default is not None:
            if isinstance(default, (OwnModel, OwnClient)):
                return self.own(type(default), default.ref, {**dict(default.settings), **body}, keys)
            return self.fields(type(default), body, keys, _settings(default))
        name, at = body.pop("name", None), self.source.given((*keys, "name"), keys)
        if not isinstance(name, str):
            known = ", ".join(parts(base))
            return self.note(at, f" is {shown(name)}, but must be the name of a {NAMED[base][1]}: {known}")
        try:
            cls, own = find_part(base, name, self.source.folder)
        except JobError as error:
            return self.note(keys if at == keys else at, f": {error}")
        return self.fields(cls, body, keys, {}) if own is None else self.own(cls, own, body, keys)

    def own(self, cls: type[Part], ref: str, settings: Mapping[str, Any], keys: Keys) -> Any:
        """Our part around a user's class: the settings are the keywords that the class takes."""
        wanted = inspect.signature(resolve(ref)).parameters.values() if cls is OwnModel else ()
        names = [p.name for p in wanted if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        free = cls is not OwnModel or any(p.kind is p.VAR_KEYWORD for p in wanted)
        before = len(self.problems)
        for key in settings:
            if key not in names and not free:
                self.unknown((*keys, key), names)
        for p in wanted:
            if p.name in names and p.default is p.empty and p.name not in {*settings, "facts"}:
                self.note(keys, f" lacks {p.name}, which {ref.rpartition(':')[2]} cannot do without")
        if len(self.problems) > before:
            return BAD
        return self.made(cls, {"ref": ref, "settings": settings}, keys)

    def algorithm(self, value: Any, keys: Keys) -> Any:
        """An algorithm by name, with what its sections change of it."""
        if isinstance(value, Algorithm):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict | None):
            return self.note(keys, f" is {shown(value)}, but must be a name or a mapping with a name")
        body = {"name": DEFAULTS["algorithm"], **(value or {})}
        name, at = body.pop("name"), self.source.given((*keys, "name"), keys)
        if not isinstance(name, str):
            return self.note(at, f" is {shown(name)}, but must be the name of an algorithm")
        for key in body:
            if key not in SECTIONS:
                self.unknown((*keys, key), ["name", *SECTIONS])
        whole = all(isinstance(body.get(key), dict) and "name" in body[key] for key in SECTIONS)
        start: Any = None
        try:
            name, build = find_algorithm(name, self.source.folder)
            start = self.start(build, name, at)
        except JobError as error:
            if not whole or is_reference(name):  # five parts and a name of one's own are an algorithm too
                return self.note(at, f": {error}")
        if start is BAD:
            return BAD
        chosen = {
            key: self.part(base, body.get(key), (*keys, key), getattr(start, key, None))
            for key, base in SECTIONS.items()
        }
        return BAD if BAD in chosen.values() else Algorithm(name, **chosen)

    def start(self, build: Callable[[], Algorithm], name: str, keys: Keys) -> Any:
        """What the algorithm's function returns, if it is an algorithm."""
        try:
            start: object = build()
        except Exception as error:  # a user's function may raise anything
            return self.note(keys, f": {name!r} could not be built: {type(error).__name__}: {error}")
        if not isinstance(start, Algorithm):
            return self.note(keys, f": {name!r} returned {shown(start)}, but must return a muster.Algorithm")
        return start

    def fields(self, cls: Any, value: Any, keys: Keys, defaults: Mapping[str, Any]) -> Any:
        """A dataclass from a mapping of its fields; what is left out comes from `defaults` or the class."""
        known = {f.name: f for f in fields(cls) if f.init}
        value = {} if value is None else value
        if not isinstance(value, dict):
            wanted = f"a mapping of {', '.join(known)}" if known else "without settings"
            return self.note(keys, f" is {shown(value)}, but must be {wanted}")
        hints, values, before = _hints(cls), {}, len(self.problems)
        for key in value:
            if key not in known:
                self.unknown((*keys, key), known)
        for name, field in known.items():
            default = defaults.get(name, _default(field))
            if name in value:
                found = self.value(hints.get(name, Any), value[name], (*keys, name), default)
                if found is _REFUSED:
                    text = f" is {shown(value[name])}, but must be {_allowed(cls, hints, name)}"
                    self.note((*keys, name), text)
                values[name] = found
            elif default is MISSING:
                self.note(keys, f" lacks {name}, which must be {_allowed(cls, hints, name)}")
            else:
                values[name] = default
        return self.made(cls, values, keys) if len(self.problems) == before else BAD

    def plain(self, hint: Any, value: Any, keys: Keys) -> Any:
        """A number, text, list, ... checked by pydantic; `_REFUSED` where it is not of the field's type."""
        adapter = _adapter(hint)
        if adapter is None:
            return value
        try:
            return adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError):
            return _REFUSED

    def made(self, cls: Any, values: Mapping[str, Any], keys: Keys) -> Any:
        """The dataclass itself; what its own checks raise is a problem of the field they name."""
        try:
            return cls(**values)
        except FieldError as error:
            hint = _hints(cls).get(error.field, Any)
            allowed = _worded(error.allowed, hint)
            at = (*keys, *error.field.removeprefix("settings.").split("."))
            return self.note(at, f" is {shown(error.found)}, but must be {allowed}")
        except Exception as error:  # a user's part may check itself in its own way
            return self.note(keys, f" is refused by {cls.__name__}: {error}")

    def unknown(self, keys: Keys, known: Any) -> None:
        """Notes a key that is none of `known`."""
        hint = nearest(keys[-1], known) or ";"
        allowed = ", ".join(known)
        self.note(
            keys, f" is not a known key{hint} {f'allowed: {allowed}' if allowed else 'none are allowed'}"
        )


_REFUSED: Final = object()


def _settings(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in fields(part) if f.init}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _hints(cls: Any) -> Mapping[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # a user's annotation that only a type checker can see
        return {}


@cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
    except PydanticUserError:  # a user's own type: the part must check it
        return None


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _allowed(cls: Any, hints: Mapping[str, Any], name: str) -> str:
    """What the field may hold, as it reads after "must be": its type, and its bounds if it tells them."""
    hint = hints.get(name, Any)
    required = [f.name for f in fields(cls) if f.init and _default(f) is MISSING and f.name != name]
    try:
        cls(
            **dict.fromkeys(required, 1), **{name: math.nan}
        )  # nothing allows NaN: the check says what it does
    except FieldError as error:
        if error.field == name:
            return _worded(error.allowed, hint)
    except Exception:
        pass  # the check could not cope with NaN; the type alone will do
    return describe(hint)


def _worded(allowed: str, hint: Any) -> str:
    """The bounds of a field as its type would say them."""
    kinds = _choices(hint)
    if not allowed.startswith(("a finite number", "an integer")):
        return allowed
    if int in kinds and float not in kinds:
        allowed = allowed.replace("a finite number", "an integer")
    return f"{allowed}, or null" if NoneType in kinds else allowed


_WORDS: Mapping[Any, str] = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    Any: "anything",
}


def describe(hint: Any) -> str:
    """A field's type in words: `int | None` is "an integer or null"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(kind) for kind in args)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    if origin in (tuple, list) and args:
        return f"a list in which each entry is {describe(args[0])}"
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        return "a mapping"
    return _WORDS.get(hint, f"of type {getattr(hint, '__name__', hint)}")

"""The job file's JSON schema (draft 2020-12), for editors that complete and check while one types."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter

from muster.core.algorithm import Algorithm
from muster.core.part import Part

from .dump import written
from .names import NAMED, SECTIONS, algorithms, parts
from .settings import Job

REFERENCE = r"^.+(\.py|\.[A-Za-z_]\w*|^[A-Za-z_]\w*):[A-Za-z_]\w*$"
"""`path/file.py:Class` or `package.module:Class`."""


def json_schema() -> dict[str, Any]:
    """The schema of job files: a union by `name` for each kind of part, other keys not allowed."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Muster job",
        "description": summary(Job),
        **_object(Job, required=False),
    }
    schema["$defs"] = {base.__name__: _union(base) for base in NAMED}
    schema["$defs"]["Algorithm"] = _algorithm()
    return schema


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


@cache
def descriptions(cls: Any) -> dict[str, str]:
    """Field name -> the docstring under it, those of the parent classes included."""
    found: dict[str, str] = {}
    for owner in reversed([c for c in cls.__mro__ if is_dataclass(c) or issubclass(c, Part)]):
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, SyntaxError):  # a class without source has no field docstrings
            continue
        assert isinstance(body, ast.ClassDef)
        for line, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[line.target.id] = " ".join(inspect.cleandoc(text.value).split())
    return found


def _object(cls: Any, *, required: bool = True, name: str | None = None) -> dict[str, Any]:
    """The schema of one dataclass; with `name`, of the mapping that asks for that part."""
    hints, told = get_type_hints(cls), descriptions(cls)
    properties: dict[str, Any] = {} if name is None else {"name": {"const": name}}
    needed = [] if name is None else ["name"]
    for field in fields(cls):
        if field.init:
            entry = _field(hints[field.name], field)
            if field.name in told:
                entry["description"] = told[field.name]
            properties[field.name] = entry
            if required and field.default is MISSING and field.default_factory is MISSING:
                needed.append(field.name)
    body: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if name is not None:
        body["description"] = summary(cls)
    return {**body, "required": needed} if needed else body


def _field(hint: Any, field: Field[Any]) -> dict[str, Any]:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    entry = _type(hint)
    return entry if default is MISSING else {**entry, "default": written(default)}


def _type(hint: Any) -> dict[str, Any]:
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    inner = [kind for kind in kinds if kind is not type(None)]
    kind = inner[0]
    if kind is Algorithm or kind in NAMED:
        entry: dict[str, Any] = {"$ref": f"#/$defs/{kind.__name__}"}
    elif isinstance(kind, type) and issubclass(kind, Part):
        entry = _object(kind)
    else:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).json_schema()
    return entry if len(inner) == len(kinds) else {"anyOf": [entry, {"type": "null"}]}


def _union(base: type[Part]) -> dict[str, Any]:
    """A part: its name, a reference, a mapping with either, or changes to the default's fields."""
    listed = parts(base)
    unnamed = {key for cls in listed.values() for key in _object(cls)["properties"]}
    reference = {"type": "string", "pattern": REFERENCE, "description": "Your own: path/file.py:Class"}
    changes = {"type": "object", "properties": dict.fromkeys(sorted(unnamed), True)}
    return {
        "description": summary(base),
        "oneOf": [
            {"enum": list(listed)},
            reference,
            *(_object(cls, name=name) for name, cls in listed.items()),
            {"type": "object", "properties": {"name": reference}, "required": ["name"]},
            {**changes, "additionalProperties": False, "description": "Changes to the default's fields."},
        ],
    }


def _algorithm() -> dict[str, Any]:
    """An algorithm: its name, a reference, or a mapping with sections that change its parts."""
    listed = algorithms()
    reference = {"type": "string", "pattern": REFERENCE, "description": "Your own: path/file.py:function"}
    told = [{"const": name, "description": summary(build)} for name, build in listed.items()]
    sections = {key: {"$ref": f"#/$defs/{base.__name__}"} for key, base in SECTIONS.items()}
    body = {"type": "object", "additionalProperties": False}
    name = {"oneOf": [*told, reference], "default": "fedavg"}
    mapping = {**body, "properties": {"name": name, **sections}}
    return {"description": "One answer to each of the five questions.", "oneOf": [*told, reference, mapping]}

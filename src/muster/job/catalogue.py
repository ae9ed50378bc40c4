"""What can be named in a job file, for the commands that list it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from muster.core.algorithm import Algorithm
from muster.core.part import Part
from muster.data.dataset import DataSet
from muster.data.partition import Partition
from muster.devices.devices import Devices
from muster.models.model import Model
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress

from .dump import written
from .names import SECTIONS, algorithms, label, parts
from .schema import summary

KINDS: dict[str, dict[str, type[Part]]] = {
    "algorithms": {**SECTIONS, "compress": Compress, "attack": Attack},
    "models": {"models": Model},
    "data": {"data sets": DataSet, "partitions": Partition},
    "devices": {"populations": Devices},
}


def catalogue(room: str) -> dict[str, list[dict[str, Any]]]:
    """Kind of part -> entries with `name`, `summary` (first line of the docstring) and `fields`.

    Args:
        room: `algorithms`, `models`, `data` or `devices`.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    if room == "algorithms":
        found["algorithms"] = [
            {"name": name, "summary": summary(build), "fields": _made_of(build())}
            for name, build in algorithms().items()
        ]
    for kind, base in KINDS[room].items():
        found[kind] = [
            {"name": name, "summary": summary(cls), "fields": _defaults(cls)}
            for name, cls in parts(base).items()
        ]
    return found


def _made_of(algorithm: Algorithm) -> dict[str, str]:
    return {section: label(getattr(algorithm, section)) for section in SECTIONS}


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Field -> default; the default of a field that is a part is its name."""
    values: dict[str, Any] = {}
    for field in fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        values[field.name] = (
            "required"
            if default is MISSING
            else label(default)
            if isinstance(default, Part)
            else written(default)
        )
    return values

"""A job back as plain data and YAML, every field written out; loading it gives an equal job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from muster.core.algorithm import Algorithm
from muster.learn.client import OwnClient
from muster.models.own import OwnModel

from .names import NAMED, SECTIONS, label
from .settings import Job
from .source import write_text


def job_to_dict(job: Job) -> dict[str, Any]:
    """The resolved job as JSON data: our parts by name, a user's by `/absolute/path/file.py:Class`."""
    body: dict[str, Any] = written(job)
    return body


def dump_job(job: Job) -> str:
    """The resolved job as the YAML of a job file; `load_job` of it gives an equal job."""
    return write_text(job_to_dict(job))


def written(value: Any) -> Any:
    """A value of a job as JSON data."""
    if isinstance(value, Algorithm):
        return {"name": value.name, **{key: written(getattr(value, key)) for key in SECTIONS}}
    if isinstance(value, (OwnModel, OwnClient)):
        return {"name": value.ref, **written(dict(value.settings))}
    if is_dataclass(value) and not isinstance(value, type):
        part: Any = value
        body = {f.name: written(getattr(part, f.name)) for f in fields(part) if f.init}
        named = isinstance(value, tuple(NAMED))
        return {"name": label(part), **body} if named else body
    if isinstance(value, Mapping):
        return {str(key): written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [written(item) for item in value]
    return value

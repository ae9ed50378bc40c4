"""The job file: what a run depends on, read, checked, written back, and described for editors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .build import Builder
from .catalogue import catalogue
from .check import check_population, conflicts, num_clients
from .dump import dump_job, job_to_dict
from .schema import json_schema
from .settings import Engine, Job, Stop, Target, Track
from .source import Source, read_file, read_mapping

__all__ = [
    "Engine",
    "Job",
    "Stop",
    "Target",
    "Track",
    "catalogue",
    "check_population",
    "dump_job",
    "job_from_dict",
    "job_to_dict",
    "json_schema",
    "load_job",
    "num_clients",
]


def load_job(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Job:
    """Reads and checks a job; nothing is trained and no data is read.

    Args:
        source: Path of a job file (YAML; an empty one is the default job), or what it would hold as a
            mapping. In a mapping, parts may also be given as objects: `{"model": MLP(hidden=(32,))}`.
        overrides: `key.sub=value` pairs that are laid over it, values in YAML.

    Raises:
        JobError: One sentence that names file, line and key, what was found and what is allowed.
    """
    if isinstance(source, Mapping):
        return job_from_dict(source, overrides)
    path = Path(source).expanduser()
    return _checked(read_file(path, overrides), path.stem)


def job_from_dict(tree: Mapping[str, Any], overrides: Iterable[str] = ()) -> Job:
    """A job from a mapping, as a notebook has it; references to files are relative to the working folder.

    Raises:
        JobError: One sentence that names the key, what was found and what is allowed.
    """
    return _checked(read_mapping(tree, overrides), "job")


def _checked(source: Source, name: str) -> Job:
    builder = Builder(source)
    job = builder.job(name)
    for places, text in conflicts(job):
        builder.problems.append((source.given(*places), text))
    builder.raise_problems()
    return job

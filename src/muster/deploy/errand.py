"""What a client is told to train: the job's parts that concern it, as JSON that runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.part import dumps, loads
from muster.core.work import Work
from muster.data.dataset import DataSet
from muster.learn.learner import Gradients
from muster.models.model import Model
from muster.tasks.task import Task
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress


@dataclass(frozen=True)
class Errand:
    """Everything that a client needs to train as a simulation would."""

    backend: str
    model: Model
    task: Task
    local: Local
    compress: Compress | None
    work: Work
    seeds: Mapping[str, int]
    """Of the streams `data`, `model` and `training`."""
    facts: Facts
    data: DataSet
    """The job's data set, for clients that bring none of their own."""
    gradients: Gradients
    """How the weights' gradients are made: another way rounds otherwise."""
    attack: Attack | None = None
    """What some of the clients do instead of what they should: to test defences with."""
    num_clients: int = 1
    """Of the job, among whom those are drawn."""


def written(errand: Errand) -> str:
    """An errand as JSON."""
    return dumps(errand)


def read(data: Any, allow_code: bool) -> Errand:
    """An errand from the JSON data that a server sent.

    Args:
        data: The JSON data.
        allow_code: Whether Python files that it names, on this machine, may be run.

    Raises:
        UserError: It names code beside Muster's own, or is no errand.
    """
    for place in _references(data):
        if not place.startswith("muster.") and not (allow_code and ".py:" in place):
            raise UserError(
                f"the server's job wants this client to run {place}; if that file is on this machine and you "
                "trust it, join with --allow-code, or bring a training of your own with --train FILE.py:train"
            )
    try:
        errand = loads(json.dumps(data))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the server sent an errand that cannot be read ({error})") from error
    if not isinstance(errand, Errand):
        raise UserError("the server sent something else than an errand")
    return errand


def _references(data: Any) -> Iterator[str]:
    """All classes and files that JSON data of parts refers to."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key in ("part", "ref"):
                yield str(value)
            yield from _references(value)
    elif isinstance(data, list):
        for item in data:
            yield from _references(item)

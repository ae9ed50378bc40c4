"""What a client is told to train: the job's parts that concern it, as JSON that runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.params import ParamSpec
from muster.core.part import dumps, loads
from muster.core.work import Work
from muster.data.dataset import DataSet
from muster.learn.numerics import Numerics
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
    numerics: Numerics
    """How a client is to round."""
    attack: Attack | None = None
    """What some of the clients do instead of what they should: to test defences with."""
    num_clients: int = 1
    """Of the job, among whom those are drawn."""
    asks: bool = False
    """Whether clients are asked how good the model is before some are drawn."""
    demands: str = ""
    """What clients do beside sending a trained model, as a sentence; empty: nothing."""


def demanded(local: Local, spec: ParamSpec) -> str:
    """What a local rule has clients do beside sending a trained model; empty: nothing."""
    what = {
        f"send {', '.join(local.up)}": local.up != ("delta",),
        f"are sent {', '.join(local.down)}": local.down != ("model",),
        "keep a part of the model": len(spec.places(local.personal(spec))) > 0,
        "measure the loss before they train": local.needs_loss,
    }
    told = ", ".join(each for each, so in what.items() if so)
    return told and f"the clients of the job's local rule, {local.part_name()}, {told}"


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
    errand = _loaded(data, allow_code)
    if not isinstance(errand, Errand):
        raise UserError("the server sent something else than an errand")
    return errand


def of(data: Any, name: str, allow_code: bool = False) -> Any:
    """One field of an errand from the JSON data that a server sent.

    Raises:
        UserError: It names code beside Muster's own, or there is no such field.
    """
    if not isinstance(data, dict) or name not in data:
        raise UserError(f"the server sent an errand without {name}: are both of the same version?")
    return _loaded(data[name], allow_code)


def _loaded(data: Any, allow_code: bool) -> Any:
    for place in _references(data):
        if not place.startswith("muster.") and not (allow_code and ".py:" in place):
            raise UserError(
                f"the server's job wants this client to run {place}; if that file is on this machine and you "
                "trust it, join with --allow-code, or bring your own: --train FILE.py:train, --data PATH"
            )
    try:
        return loads(json.dumps(data))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the server sent an errand that cannot be read ({error})") from error


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

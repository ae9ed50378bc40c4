"""A user's own network: any `torch.nn.Module` class in a Python file."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from muster.core.errors import FieldError, UserError
from muster.core.part import resolve

from .model import Model

if TYPE_CHECKING:
    from torch.nn import Module

    from muster.core.examples import Facts

Settings: TypeAlias = tuple[tuple[str, Any], ...]
"""Keyword settings of a user's class: (name, value) pairs; values are JSON scalars and tuples of them."""


def frozen_settings(owner: str, settings: Any) -> Settings:
    """The pairs of a mapping (or of pairs) in order of their names, lists turned into tuples.

    Raises:
        FieldError: A name is no Python name, or a value is not a scalar or a list of scalars.
    """
    pairs = dict(settings).items()
    for name, value in pairs:
        if not isinstance(name, str) or not name.isidentifier():
            raise FieldError(owner, "settings", name, "names of keyword arguments, each with its value")
        if not _plain(value):
            allowed = "a finite number, a string, true, false, null or a list of these"
            raise FieldError(owner, f"settings.{name}", value, allowed)
    return tuple(sorted((name, _frozen(value)) for name, value in pairs))


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class OwnModel(Model):
    """The network that `Net(**settings)` builds; if `__init__` has a parameter `facts`, it is given them."""

    backends: ClassVar[tuple[str, ...]] = ("torch", "numpy", "numba", "jax")
    """torch trains it whatever it is; the others if it is dense layers with relu between them."""

    ref: str
    """Where the class is: `file.py:Net` or `package.module:Net`."""
    settings: Mapping[str, Any] | Settings = ()
    """Keyword arguments of its constructor."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", frozen_settings("model", self.settings))

    def torch(self, facts: Facts) -> Module:
        """Builds the user's network.

        Raises:
            UserError: The class is missing or no torch.nn.Module, or its constructor raises.
        """
        from torch.nn import Module

        cls = resolve(self.ref)
        if not (isinstance(cls, type) and issubclass(cls, Module)):
            raise UserError(f"{self.ref} must be a class that inherits from torch.nn.Module, found {cls!r}")
        settings = dict(self.settings)
        if "facts" in inspect.signature(cls.__init__).parameters:
            settings.setdefault("facts", facts)
        try:
            return cls(**settings)
        except Exception as error:
            given = (
                ", ".join(f"{name}={value!r}" for name, value in dict(self.settings).items()) or "no settings"
            )
            raise UserError(
                f"{self.ref} could not be built with {given}: {type(error).__name__}: {error}"
            ) from error


def called(model: Model) -> str:
    """What users call a model."""
    return model.ref if isinstance(model, OwnModel) else model.part_name()

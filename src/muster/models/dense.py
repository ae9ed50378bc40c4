"""Models of dense layers only, which every backend can train: from one seed they start at the same bits."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from muster.core.errors import FieldError
from muster.core.params import ParamSpec, Vector
from muster.core.randomness import rng

from .model import Model

if TYPE_CHECKING:
    from torch.nn import Module

    from muster.core.examples import Facts


class Dense(Model):
    """Flattened inputs through dense layers with relu between them; the last gives the scores.

    Layer i has the arrays `dense{i}.weight` [out, in] and `dense{i}.bias` [out], in every backend.
    """

    backends: ClassVar[tuple[str, ...]] = ("numpy", "torch", "numba", "jax")

    @abstractmethod
    def layers(self, facts: Facts) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of each layer, first to last."""

    def names(self, facts: Facts) -> tuple[tuple[str, str], ...]:
        """What weight and bias of each layer are called, first to last."""
        return tuple((f"dense{i}.weight", f"dense{i}.bias") for i in range(len(self.layers(facts))))

    def macs(self, facts: Facts) -> float:
        """One for each weight."""
        return float(sum(ins * outs for ins, outs in self.layers(facts)))

    def spec(self, facts: Facts) -> ParamSpec:
        """The layout of the flat vector, the same in every backend."""
        arrays: list[tuple[str, tuple[int, ...], str]] = []
        for (weight, bias), (ins, outs) in zip(self.names(facts), self.layers(facts), strict=True):
            arrays.append((weight, (outs, ins), "weight"))
            arrays.append((bias, (outs,), "bias"))
        return ParamSpec.of(arrays)

    def initial(self, facts: Facts, seed: int) -> Mapping[str, Vector]:
        """Weights and biases uniform in ±1/sqrt(inputs), as torch's Linear draws them by default."""
        return dict(self.drawn(facts, seed))

    def drawn(self, facts: Facts, seed: int) -> Iterator[tuple[str, Vector]]:
        """The arrays of `initial` one after another: all together may be more than memory holds."""
        for i, (ins, outs) in enumerate(self.layers(facts)):
            draw, bound = rng(seed, "model", i), 1 / np.sqrt(ins)
            yield f"dense{i}.weight", draw.uniform(-bound, bound, (outs, ins)).astype(np.float32)
            yield f"dense{i}.bias", draw.uniform(-bound, bound, outs).astype(np.float32)

    def torch(self, facts: Facts) -> Module:
        """The same layers as a torch module, with the same names."""
        from torch import nn

        parts: list[tuple[str, Module]] = [("flatten", nn.Flatten())]
        for i, (ins, outs) in enumerate(self.layers(facts)):
            if i > 0:
                parts.append((f"relu{i}", nn.ReLU()))
            parts.append((f"dense{i}", nn.Linear(ins, outs)))
        return nn.Sequential(OrderedDict(parts))


@dataclass(frozen=True)
class Logistic(Dense):
    """Multinomial logistic regression (softmax regression): one dense layer."""

    def layers(self, facts: Facts) -> tuple[tuple[int, int], ...]:
        """One layer, from all inputs to the classes."""
        return ((prod(facts.input_shape), facts.num_classes),)


@dataclass(frozen=True)
class MLP(Dense):
    """A multi-layer perceptron: dense hidden layers with relu."""

    hidden: tuple[int, ...] = (64,)
    """Width of each hidden layer."""

    def __post_init__(self) -> None:
        widths = self.hidden
        if not isinstance(widths, (tuple, list)) or not all(type(w) is int and w >= 1 for w in widths):
            raise FieldError("mlp", "hidden", widths, "a list of whole numbers at least 1, e.g. [64]")
        object.__setattr__(self, "hidden", tuple(widths))

    def layers(self, facts: Facts) -> tuple[tuple[int, int], ...]:
        """Inputs to the first hidden layer, and so on to the classes."""
        widths = (prod(facts.input_shape), *self.hidden, facts.num_classes)
        return tuple(pairwise(widths))

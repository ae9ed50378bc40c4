"""A user's torch module that is no more than dense layers with relu between them, as a `Dense` model.

Its forward pass is traced (`torch.fx`), so it need not be an `nn.Sequential`. What was found is then tried
beside the module itself; whatever is not understood to the last operation stays torch's.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from muster.core.examples import Facts
from muster.core.params import ParamSpec, Vector
from muster.core.randomness import rng
from muster.models.dense import Dense
from muster.models.model import Model

from .torch_module import model_seed, named_floats, seeded, unchecked

FLATTENING = frozenset(("flatten", "view", "reshape", torch.flatten))
"""What may come before the first layer; a trial says whether it does flatten."""
MEASURING = frozenset(("size", "dim", getattr, operator.getitem))
"""What a reshape may need to know of the input."""
RELUS = frozenset(("relu", "relu_", functional.relu, functional.relu_, torch.relu, torch.relu_))
LAYERS = {nn.Linear: "linear", nn.ReLU: "relu", nn.Flatten: "flatten", nn.Identity: "pass"}
FOLLOWS = frozenset(
    (
        ("start", "input"),
        *(("input", doing) for doing in ("flatten", "pass", "linear")),
        *(("linear", doing) for doing in ("relu", "pass")),
        *(("relu", doing) for doing in ("linear", "pass")),
    )
)
"""(what was done, what may be done next)."""
AGREES = 1e-5
"""Of the largest score: what the layers found may differ by from the module."""


@dataclass(frozen=True)
class Lowered(Dense):
    """The dense layers of `model`: its arrays, by its own names, and its initial values."""

    model: Model
    chain: tuple[tuple[str, int, int], ...]
    """(name of the layer, inputs, outputs), as they are passed through."""

    def layers(self, facts: Facts) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of each layer, first to last."""
        return tuple((ins, outs) for _, ins, outs in self.chain)

    def names(self, facts: Facts) -> tuple[tuple[str, str], ...]:
        """As the module calls them."""
        return tuple((f"{name}.weight", f"{name}.bias") for name, _, _ in self.chain)

    def spec(self, facts: Facts) -> ParamSpec:
        """In the module's order, which need not be that of the forward pass."""
        return ParamSpec.of(
            (name, tuple(tensor.shape), kind) for name, tensor, kind in self._floats(facts, 0)
        )

    def initial(self, facts: Facts, seed: int) -> Mapping[str, Vector]:
        """What the module itself begins with."""
        drawn = self._floats(facts, model_seed(seed))
        return {name: tensor.detach().numpy() for name, tensor, _ in drawn}

    def torch(self, facts: Facts) -> nn.Module:
        """The module itself."""
        return self.model.torch(facts)

    def _floats(self, facts: Facts, seed: int) -> list[tuple[str, Tensor, str]]:
        with seeded(seed):
            return list(named_floats(self.torch(facts)))


def lowered(model: Model, facts: Facts) -> Lowered | None:
    """The dense layers that `model` consists of; None if it is anything else.

    Raises:
        UserError: It cannot be built.
    """
    with seeded(0):
        module = unchecked(model, facts).train()
        if not all(type(part) in LAYERS for part in _leaves(module)):
            return None
        try:
            graph = fx.symbolic_trace(module).graph
        except Exception:  # a forward pass of a user's own may do what cannot be traced, and raise anything
            return None
        found = _chain(module, graph)
        if not found or not _owns(module, found) or not _alike(module, found, facts):
            return None
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    sizes = ((name, *shapes[f"{name}.weight"]) for name in found)
    return Lowered(model, tuple((name, ins, outs) for name, outs, ins in sizes))


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if not list(part.children()) and part is not module]


def _chain(module: nn.Module, graph: fx.Graph) -> list[str]:
    """Names of the linear layers, each fed by the one before and a relu; empty if there is more to it."""
    names: list[str] = []
    last, flow = "start", None
    for node in graph.nodes:
        if node.op == "output":
            return names if last == "linear" and node.args[0] is flow else []
        doing = _doing(module, node)
        if doing == "measure" and not names:
            continue
        if (last, doing) not in FOLLOWS or (doing != "input" and node.args[:1] != (flow,)):
            return []
        if doing == "linear":
            names.append(str(node.target))
        last = last if doing in ("pass", "flatten") else doing
        flow = node
    return []


def _doing(module: nn.Module, node: fx.Node) -> str:
    """Which of the operations that this module knows; "" is none of them."""
    if node.op == "placeholder":
        return "input"
    if node.op == "call_module":
        return LAYERS[type(module.get_submodule(str(node.target)))]
    called = node.target if node.op in ("call_function", "call_method") else ""
    kinds = {"relu": RELUS, "flatten": FLATTENING, "measure": MEASURING}
    return next((kind for kind, targets in kinds.items() if called in targets), "")


def _owns(module: nn.Module, names: list[str]) -> bool:
    """Whether the layers named, each once, hold all that the module has, and all of it is trained."""
    expected = {f"{name}.{leaf}" for name in names for leaf in ("weight", "bias")}
    held = list(named_floats(module))
    trained = all(kind != "statistic" and tensor.dtype == torch.float32 for _, tensor, kind in held)
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return (
        len(set(names)) == len(names) and {name for name, _, _ in held} == expected and trained and not hooked
    )


def _alike(module: nn.Module, names: list[str], facts: Facts) -> bool:
    """Whether the layers, one after another with relu between, give the scores that the module gives."""
    drawn = rng(0, "dense layers").normal(size=(3, *facts.input_shape)).astype(np.float32)
    with torch.no_grad():
        try:
            wanted = module(torch.from_numpy(drawn))
        except Exception:  # it cannot read such examples: `build` says so where it is trained
            return False
        values = torch.from_numpy(drawn).reshape(3, prod(facts.input_shape))
        for i, name in enumerate(names):
            values = module.get_submodule(name)(torch.relu(values) if i else values)
    same = isinstance(wanted, Tensor) and wanted.shape == values.shape
    return same and bool((wanted - values).abs().max() <= AGREES * values.abs().max())

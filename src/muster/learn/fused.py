"""Steps along the gradient with no gradient of the whole model, for rules that only step along it.

Each tensor's gradient is taken as the backward pass leaves it, and subtracted in one pass; no flat gradient
is zeroed, added to, scaled and subtracted. Of wide linear layers the weight's gradient is not even written
out: at a small batch such a layer is bound by memory, as the gradient of a [2048, 3136] weight is 26 MB. It
is the product of two thin matrices, δᵀ x, and all that plain SGD needs of it has a form in them: its norm,
‖δᵀx‖² = Σ (δδᵀ)∘(xxᵀ), and the step, W ← W - s δᵀx, which a matrix product adds straight into the weight.
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from muster.core.algorithm import Local, Vectors
from muster.core.errors import UserError

from .torch_module import FlatModule

WIDE = 1 << 18
"""Numbers of a weight from which on it pays; a smaller one stays in the cache."""
THIN = 4
"""The weight's shorter side must have so many times the rows of a batch: then the factors are the smaller."""

Pairs = list[tuple[Tensor, Tensor]]
"""(δ, x) of each use of a layer: f32[rows, out] and f32[rows, in]."""


def steps_along(local: Local) -> bool:
    """Whether the rule only steps along the gradient, as far as its norm says."""
    return local.stride(lambda: 1.0) is not None


def wide_layers(module: nn.Module, inputs: Tensor, batch_size: int) -> list[nn.Linear]:
    """The layers for which it pays at this batch size; `inputs` are two blank examples."""
    if batch_size == 0:
        return []
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: dict[nn.Linear, int] = {}
    handles = [
        part.register_forward_pre_hook(lambda layer, args: found.__setitem__(layer, args[0][..., 0].numel()))
        for part in module.modules()
        if type(part) is nn.Linear and owners[id(part.weight)] == 1 and part.weight.requires_grad
    ]
    training = module.training
    with torch.no_grad():
        module.eval()(inputs)
    module.train(training)
    for handle in handles:
        handle.remove()
    return [
        layer
        for layer, rows in found.items()
        if layer.weight.numel() >= WIDE and THIN * batch_size * rows // 2 <= min(layer.weight.shape)
    ]


class _Linear(torch.autograd.Function):
    """A linear layer that notes the factors of its weight's gradient instead of making it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs = pairs
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (slope,) = slopes
        x, weight = ctx.saved_tensors
        rows = slope.reshape(-1, slope.shape[-1]).float()  # half as precise under autocast
        ctx.pairs.append((rows, x.detach().reshape(-1, x.shape[-1]).float()))
        down = slope @ weight.to(slope.dtype) if ctx.needs_input_grad[0] else None
        return down, None, rows.sum(0) if ctx.needs_input_grad[2] else None, None


def _forward(layer: nn.Linear, pairs: Pairs, x: Tensor) -> Tensor:
    made: Tensor = _Linear.apply(x, layer.weight, layer.bias, pairs)  # type: ignore[no-untyped-call]
    return made


class Fused:
    """Takes the place of the flat gradient of a module.

    Args:
        flat: The module, without a gradient of its own; the layers' forward passes are replaced.
        layers: From `wide_layers`.

    """

    def __init__(self, flat: FlatModule, layers: list[nn.Linear]) -> None:
        self._uses: list[tuple[nn.Linear, Pairs]] = [(layer, []) for layer in layers]
        for layer, pairs in self._uses:
            layer.forward = partial(_forward, layer, pairs)  # type: ignore[method-assign]
        factored = {id(layer.weight) for layer in layers}
        parameters = flat.module.parameters()
        self._rest = [p for p in parameters if p.requires_grad and id(p) not in factored]

    def clear(self) -> None:
        """Before each backward pass."""
        for _, pairs in self._uses:
            pairs.clear()
        for parameter in self._rest:
            parameter.grad = None

    def _graded(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and their gradients; of a layer that the pass left out there is none."""
        found = [(parameter, parameter.grad) for parameter in self._rest]
        graded = [(parameter, gradient) for parameter, gradient in found if gradient is not None]
        return [parameter for parameter, _ in graded], [gradient for _, gradient in graded]

    def norm(self) -> float:
        """Of the whole gradient."""
        _, gradients = self._graded()
        squares = sum(float(norm) ** 2 for norm in torch._foreach_norm(gradients)) if gradients else 0.0
        for _, pairs in self._uses:
            if pairs:
                slope, x = _joined(pairs)
                squares += float(((slope @ slope.T) * (x @ x.T)).sum())
        return sqrt(max(squares, 0.0))

    def step(self, local: Local, params: Tensor, memory: Vectors) -> tuple[Tensor, Vectors]:
        """What the rule does with the gradient."""
        scale = local.stride(self.norm)
        assert scale is not None
        for layer, pairs in self._uses:
            if layer.weight.grad is not None:
                raise UserError(
                    "the model uses the weight of a linear layer outside of the layer, which gradients in "
                    "factors would miss; add engine.gradients=plain"
                )
            if pairs:
                slope, x = _joined(pairs)
                layer.weight.data.addmm_(slope.T, x, alpha=-scale)
        parameters, gradients = self._graded()
        with torch.no_grad():
            torch._foreach_sub_(parameters, gradients, alpha=scale)
        return params, memory


def _joined(pairs: Pairs) -> tuple[Tensor, Tensor]:
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([slope for slope, _ in pairs]), torch.cat([x for _, x in pairs])

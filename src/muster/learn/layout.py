"""How images go through a model: channels last in memory, whatever layout weights travel in; pooled first.

Torch's max-pooling on a CPU is several times as fast so, and its convolutions (oneDNN) need not reorder what
comes from a pooling layer. The weight stays as it is in the flat vector; each pass turns a copy of it, which
is small beside the images.

Where a relu comes before a max-pooling the other order gives the same bits, forward and backward, as relu
keeps the order of what it lets through; it then works on a quarter of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


def pools(module: nn.Module) -> bool:
    """Whether the module has what it pays for: a convolution and a max-pooling of images."""
    kinds = {type(part) for part in module.modules()}
    return {nn.Conv2d, nn.MaxPool2d} <= kinds


def pool_first(module: nn.Module) -> None:
    """Has every `nn.Sequential` of the module pool before a relu that comes just before."""
    for part in module.modules():
        if type(part) is not nn.Sequential:
            continue
        layers = list(part)
        for at, (layer, after) in enumerate(pairwise(layers)):
            if type(layer) is nn.ReLU and type(after) is nn.MaxPool2d and not after.return_indices:
                layers[at : at + 2] = after, layer
        if layers != list(part):
            part.forward = partial(_through, layers)  # type: ignore[method-assign]


def _through(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def turn(module: nn.Module) -> None:
    """Has every convolution of images take and give them channels last."""
    for part in module.modules():
        if type(part) is nn.Conv2d:
            part.forward = partial(_forward, part)  # type: ignore[method-assign]


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    # `to` sets the strides that make the result channels last even where there is one channel
    weight = layer.weight.to(memory_format=torch.channels_last)
    made: Tensor = layer._conv_forward(x, weight, layer.bias)
    return made

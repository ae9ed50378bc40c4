"""Convolutions whose images lie channels last in memory, whatever layout their weights travel in.

Torch's max-pooling on a CPU is several times as fast so, and its convolutions (oneDNN) need not reorder what
comes from a pooling layer. The weight stays as it is in the flat vector; each pass turns a copy of it, which
is small beside the images.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


def pools(module: nn.Module) -> bool:
    """Whether the module has what it pays for: a convolution and a max-pooling of images."""
    kinds = {type(part) for part in module.modules()}
    return {nn.Conv2d, nn.MaxPool2d} <= kinds


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

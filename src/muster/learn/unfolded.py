"""Convolutions as products of matrices, for many clients' own weights at once.

`torch.func.vmap` of a convolution over weights makes one with as many groups as there are clients, for which
a GPU's kernels are not made. Here the patches of the images are written out (im2col) and multiplied with the
weights, which under vmap is one batched product with a matrix for each client: a patch of numbers for each
pixel, in exchange for the kernels that GPUs do best.

Patches are copied from a view of the images' windows, by one kernel and in the order that the product wants.
`torch.nn.functional.unfold` would start a kernel for each image on a GPU, thousands of them in a cohort;
`fold`, its gradient, takes one for all.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import fold, pad

Pair = tuple[int, ...]
"""Of height and width."""


def unfolded(module: nn.Module) -> nn.Module:
    """A copy of the module whose convolutions of images, in one group and padded with zeros, are products."""
    made = copy.deepcopy(module)
    for part in made.modules():
        if type(part) is nn.Conv2d and _plain(part):
            part.forward = partial(_forward, part)  # type: ignore[method-assign]
    return made


def _plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """[B, in, height, width] to [B, out, ...], as the layer does."""
    assert not isinstance(layer.padding, str)
    how = layer.kernel_size, layer.dilation, layer.padding, layer.stride
    if x.requires_grad:
        columns: Tensor = _Columns.apply(x, *how)  # type: ignore[no-untyped-call]
    else:
        columns = _columns(x, *how)
    made = layer.weight.flatten(1) @ columns
    if layer.bias is not None:
        made = made + layer.bias[:, None]
    reach = layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
    height = (x.shape[-2] + 2 * layer.padding[0] - reach) // layer.stride[0] + 1
    return made.view(made.shape[0], len(x), height, -1).transpose(0, 1)


def _columns(x: Tensor, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Tensor:
    """Patches of images [..., B, in, height, width] as columns, [..., in x kernel, B x places]."""
    padded = pad(x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
    windows = padded
    for axis in (0, 1):  # the first axis of the image that is left becomes the last one of all
        windows = windows.unfold(-2, dilation[axis] * (kernel[axis] - 1) + 1, stride[axis])
    windows = windows[..., :: dilation[0], :: dilation[1]]
    count, depth, height, width = windows.shape[-6:-2]
    windows = windows.movedim(-5, -6).movedim((-2, -1), (-5, -4))
    return windows.reshape(*x.shape[:-4], depth * kernel[0] * kernel[1], count * height * width)


class _Columns(torch.autograd.Function):
    """`_columns`, whose gradient torch would otherwise take client by client."""

    @staticmethod
    def forward(x: Tensor, *how: Pair) -> Tensor:
        return _columns(x, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.how = inputs
        ctx.count, ctx.size = x.shape[-4], x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        each = slopes[0].view(*slopes[0].shape[:-1], ctx.count, -1).transpose(-2, -3)
        return fold(each, ctx.size, *ctx.how), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *how: Pair) -> tuple[Any, int]:
        return _Columns.apply(x.movedim(in_dims[0], 0), *how), 0  # type: ignore[no-untyped-call]

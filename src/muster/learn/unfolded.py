"""Convolutions as products of matrices, for many clients' own weights at once.

`torch.func.vmap` of a convolution over weights makes one with as many groups as there are clients, for which
a GPU's kernels are not made. Here the patches of the images are written out (im2col) and multiplied with the
weights, which under vmap is one batched product with a matrix for each client: a patch of numbers for each
pixel, in exchange for the kernels that GPUs do best.
"""

from __future__ import annotations

import copy
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import unfold


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
    columns = unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    count, depth, places = columns.shape
    made = layer.weight.flatten(1) @ columns.transpose(0, 1).reshape(depth, count * places)
    if layer.bias is not None:
        made = made + layer.bias[:, None]
    reach = layer.dilation[0] * (layer.kernel_size[0] - 1) + 1
    height = (x.shape[-2] + 2 * layer.padding[0] - reach) // layer.stride[0] + 1
    return made.view(-1, count, height, places // height).transpose(0, 1)

"""Convolutions of many clients' own weights as products, beside torch's own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402

from muster.learn.unfolded import unfolded  # noqa: E402
from worlds.tape import Tape  # noqa: E402

LAYERS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 5, "padding": 2},
    "uneven": {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 3), "dilation": (2, 1), "bias": False},
    "pixels": {"kernel_size": 1, "stride": 2},
}


def net(how):
    """Two layers, of which only the second one has a gradient for its input."""
    torch.manual_seed(0)
    first = nn.Conv2d(2, 3, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(3, 4, **how), nn.Flatten())


def slopes(module, images, device="cpu"):
    """Gradients of four clients whose weights differ, by name."""
    torch.manual_seed(1)
    params = {name: torch.randn(4, *each.shape).to(device) for name, each in module.named_parameters()}

    def loss(mine, x):
        return functional_call(module, mine, (x,)).square().sum()

    return vmap(grad(loss))(params, images)


@pytest.mark.parametrize("how", LAYERS.values(), ids=LAYERS)
def test_products_give_what_convolutions_give(how):
    module, images = net(how), torch.randn(4, 5, 2, 11, 9)
    made = unfolded(module)
    torch.testing.assert_close(made(images[0]), module(images[0]), rtol=1e-5, atol=1e-6)
    found, wanted = slopes(made, images), slopes(module, images)
    for name, slope in wanted.items():
        bound = 1e-5 * float(slope.abs().max())
        np.testing.assert_allclose(found[name], slope, atol=bound, err_msg=name)
    alone = torch.randn(5, 2, 11, 9, requires_grad=True)
    ends = [torch.autograd.grad(net(alone).square().sum(), alone)[0] for net in (made, module)]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def test_no_image_is_gone_through_by_itself():
    """On a GPU `unfold` would start a kernel for each."""
    module, images = unfolded(net(LAYERS["padded"])), torch.randn(4, 5, 2, 11, 9)
    with Tape() as tape:
        slopes(module, images)
    seen = [str(function) for function, *_ in tape.notes]
    assert "aten.im2col.default" not in seen and seen.count("aten.col2im.default") == 1
    assert seen.count("aten.bmm.default") == 5, "two forward, three back: none for the images"

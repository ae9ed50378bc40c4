"""LSTMs written out, beside torch's own."""

import warnings

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402

from muster.learn.unrolled import unrolled  # noqa: E402
from worlds.tape import Tape  # noqa: E402

LAYERS = {
    "one": {},
    "two": {"num_layers": 2, "batch_first": True},
    "no bias": {"bias": False, "num_layers": 2},
}


def made(how):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5, **how))
    return module, unrolled(module)


@pytest.mark.parametrize("how", LAYERS.values(), ids=LAYERS)
def test_an_lstm_gives_what_torch_says(how):
    module, own = made(how)
    assert own is not module and own[1].forward is not module[1].forward
    x = torch.randn(6, 7, 3)
    batch = 6 if how.get("batch_first") else 7
    state = tuple(torch.randn(how.get("num_layers", 1), batch, 5) for _ in range(2))
    for found, wanted in (
        (own(x), module(x)),
        (own[1](own[0](x), state), module[1](module[0](x), state)),
        (own[1](own[0](x[0])), module[1](module[0](x[0]))),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYERS.values(), ids=LAYERS)
def test_clients_side_by_side_get_the_gradients_that_each_gets_alone(how):
    module, own = made(how)
    torch.manual_seed(1)
    params = {name: torch.randn(4, *each.shape) / 2 for name, each in module.named_parameters()}
    x = torch.randn(4, 6, 7, 3)

    def loss(net, mine, inputs):
        return functional_call(net, mine, (inputs,))[0].square().sum()

    with warnings.catch_warnings(action="error"):  # torch warns where it loops over clients
        found = vmap(lambda mine, inputs: grad(lambda p: loss(own, p, inputs))(mine))(params, x)
    for i in range(4):
        mine = {name: each[i].clone().requires_grad_() for name, each in params.items()}
        wanted = torch.autograd.grad(loss(module, mine, x[i]), list(mine.values()))
        for name, slope in zip(mine, wanted, strict=True):
            torch.testing.assert_close(found[name][i], slope, rtol=1e-4, atol=1e-5)


def test_a_step_is_one_product_for_all_clients():
    _, own = made({})
    params = {name: each.expand(4, *each.shape) for name, each in own.named_parameters()}
    with Tape() as tape:
        vmap(lambda mine, x: functional_call(own, mine, (x,))[0])(params, torch.randn(4, 6, 7, 3))
    assert [str(f) for f, *_ in tape.notes].count("aten.bmm.default") == 2 + 6


def test_other_layers_are_left_alone():
    for module in (
        nn.Linear(2, 2),
        nn.LSTM(3, 4, bidirectional=True),
        nn.LSTM(3, 4, proj_size=2),
        nn.LSTM(3, 4, num_layers=2, dropout=0.5),
        nn.GRU(3, 4),
    ):
        assert unrolled(module) is module
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    (module, own) = made({})
    torch.testing.assert_close(own[1](packed)[0].data, module[1](packed)[0].data)

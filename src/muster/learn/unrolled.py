"""LSTMs written out, for many clients' own weights at once.

Torch has no batched form of its LSTM: under `torch.func.vmap` it loops over the clients on a CPU, and fails
on a GPU, where the layer is one call of cuDNN with a list of weights. Here a layer is what its definition
says, step by step: under vmap each is one batched product and a few kernels for all clients.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = tuple[Tensor, Tensor]
"""h and c of all layers, [layers, B, hidden]."""


def unrolled(module: nn.Module) -> nn.Module:
    """A copy of the module whose LSTMs, forward ones without projection, are written out.

    It is the module itself if there are none.
    """
    if not any(_plain(part) for part in module.modules()):
        return module
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, nn.LSTM) and _plain(part):
            part.forward = partial(_forward, part)  # type: ignore[assignment, method-assign]
    return made


def _plain(part: nn.Module) -> bool:
    return type(part) is nn.LSTM and not (part.bidirectional or part.proj_size or part.dropout)


def _forward(lstm: nn.LSTM, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """[B, T, in] to [B, T, hidden] and the last state, as the layer does; T first if it says so."""
    if not isinstance(x, Tensor) or x.dim() != 3:  # a packed sequence, or one without a batch
        plain: tuple[Tensor, State] = nn.LSTM.forward(lstm, x, state)
        return plain
    outputs, ends = x.transpose(0, 1) if lstm.batch_first else x, []
    for layer in range(lstm.num_layers):
        if state is None:
            h = c = outputs.new_zeros(outputs.shape[1], lstm.hidden_size)
        else:
            h, c = state[0][layer], state[1][layer]
        of_inputs = outputs @ getattr(lstm, f"weight_ih_l{layer}").T
        if lstm.bias:
            of_inputs = of_inputs + getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        recurrent, each = getattr(lstm, f"weight_hh_l{layer}").T, []
        for step in of_inputs.unbind():
            entered, forgotten, cell, told = (step + h @ recurrent).chunk(4, -1)
            c = forgotten.sigmoid() * c + entered.sigmoid() * cell.tanh()
            h = told.sigmoid() * c.tanh()
            each.append(h)
        outputs = torch.stack(each)
        ends.append((h, c))
    last = torch.stack([h for h, _ in ends]), torch.stack([c for _, c in ends])
    return outputs.transpose(0, 1) if lstm.batch_first else outputs, last

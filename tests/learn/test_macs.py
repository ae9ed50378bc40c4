"""Multiply-adds of the zoo's models, counted by hand."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest

from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.learn.macs import counted, forward_macs
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.models.dense import MLP, Logistic
from muster.models.model import Model
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter

FEMNIST = Facts("femnist", (1, 28, 28), 62)


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (Logistic(), 784 * 62),
        (MLP(hidden=(64,)), 784 * 64 + 64 * 62),  # 54,144
        (MLP(hidden=(200, 100)), 784 * 200 + 200 * 100 + 100 * 62),
    ],
)
def test_dense_models(model, macs):
    assert forward_macs(model, Classification(), FEMNIST) == macs


@pytest.mark.parametrize(("model", "dense"), [(LeafCNN(), 512), (LeafCNN(2048), 2048), (ConvNet2(), 2048)])
def test_convolutional_models(model, dense):
    # 5x5 kernels at 28x28 places from 1 to 32 channels, at 14x14 from 32 to 64; then 7x7x64 inputs.
    macs = 28 * 28 * 32 * 25 + 14 * 14 * 64 * 32 * 25 + 7 * 7 * 64 * dense + dense * 62
    assert forward_macs(model, Classification(), FEMNIST) == macs
    if dense == 512:
        assert macs == 12_299_776


def test_a_recurrent_model():
    # 80 characters through 4 gates of 256 from 8 + 256 and from 256 + 256; the last one is scored.
    macs = 80 * 4 * 256 * (8 + 256 + 256 + 256) + 256 * 80
    found = forward_macs(CharLSTM(), NextCharacter(), Facts("shakespeare", (80,), 80))
    assert found == macs == 63_590_400


@pytest.mark.parametrize(
    ("model", "task", "facts"),
    [
        (MLP(), Classification(), FEMNIST),
        (LeafCNN(20), Classification(), Facts("odd", (3, 13, 10), 7)),
        (ConvNet2(30), Classification(), Facts("odd", (3, 13, 10), 7)),
        (CharLSTM(4, 16, 3), NextCharacter(), Facts("text", (9,), 11)),
    ],
)
def test_formulas_are_what_torch_counts_which_is_left_as_it_was(model, task, facts):
    torch = pytest.importorskip("torch")
    before = torch.backends.mkldnn.enabled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counted(model, task, facts) == forward_macs(model, task, facts) > 0
    assert torch.backends.mkldnn.enabled == before


@dataclass(frozen=True)
class Attention(Model):
    """Seven inputs as a sequence of one, through an encoder's layer; or only summed."""

    layers: int = 1

    def torch(self, facts):
        from torch import nn

        class Network(nn.Module):
            def __init__(self, layers):
                super().__init__()
                each = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(layers)]
                self.encoder, self.scale = (
                    nn.Sequential(*each),
                    nn.Parameter(nn.init.ones_(nn.Linear(1, 1).bias)),
                )

            def forward(self, x):
                return self.encoder(x[:, None]).sum(1)[:, :3] * self.scale

        return Network(self.layers)


def test_attention_is_counted_and_a_model_without_products_is_refused():
    pytest.importorskip("torch")
    facts = Facts("features", (8,), 3)
    # Three projections and one back, 8 x 8 each; a score and a sum of 8, for a sequence of one; 8 x 16 twice.
    assert forward_macs(Attention(), Classification(), facts) == 4 * 64 + 2 * 8 + 2 * 8 * 16
    with pytest.raises(UserError, match=r"attention cannot be counted .*; set clock\.compute to examples"):
        forward_macs(Attention(0), Classification(), facts)

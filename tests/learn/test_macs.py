"""Multiply-adds of the zoo's models, counted by hand."""

from __future__ import annotations

import warnings

import pytest

from muster.core.examples import Facts
from muster.learn.macs import forward_macs
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.models.dense import MLP, Logistic
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
    pytest.importorskip("torch")
    # 5x5 kernels at 28x28 places from 1 to 32 channels, at 14x14 from 32 to 64; then 7x7x64 inputs.
    macs = 28 * 28 * 32 * 25 + 14 * 14 * 64 * 32 * 25 + 7 * 7 * 64 * dense + dense * 62
    assert forward_macs(model, Classification(), FEMNIST) == macs
    if dense == 512:
        assert macs == 12_299_776


def test_a_recurrent_model_and_torch_is_left_as_it_was():
    torch = pytest.importorskip("torch")
    before = torch.backends.mkldnn.enabled
    # 80 characters through 4 gates of 256 from 8 + 256 and from 256 + 256; the last one is scored.
    macs = 80 * 4 * 256 * (8 + 256 + 256 + 256) + 256 * 80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = forward_macs(CharLSTM(), NextCharacter(), Facts("shakespeare", (80,), 80))
    assert found == macs == 63_590_400
    assert torch.backends.mkldnn.enabled == before

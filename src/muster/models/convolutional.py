"""Convolutional networks for images [channels, height, width]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.core.errors import UserError

from .model import Model

if TYPE_CHECKING:
    from torch.nn import Module

    from muster.core.examples import Facts


@dataclass(frozen=True)
class LeafCNN(Model):
    """Two 5x5 convolutions (32 and 64 channels), each with relu and 2x2 max-pooling, and a dense layer.

    The FEMNIST model of S. Caldas et al.: LEAF, a benchmark for federated settings, 2018,
    arXiv:1812.01097, which has 2,048 dense units; 512 is the MNIST CNN of McMahan et al. 2017.
    """

    dense: int = 512
    """Units of the dense layer."""

    def __post_init__(self) -> None:
        self.check_number("dense", at_least=1)

    def macs(self, facts: Facts) -> float:
        """For (1, 28, 28) and 62 classes: 12,299,776."""
        return _macs("leaf_cnn", facts, self.dense)

    def torch(self, facts: Facts) -> Module:
        """For (1, 28, 28) and 62 classes: 1,690,046 parameters."""
        from torch import nn

        channels, pixels = _image("leaf_cnn", facts)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * pixels, self.dense),
            nn.ReLU(),
            nn.Linear(self.dense, facts.num_classes),
        )


@dataclass(frozen=True)
class ConvNet2(Model):
    """The LEAF CNN with BatchNorm after each convolution, and dropout around the dense layer.

    Y. Xie et al.: FederatedScope, VLDB 2023, arXiv:2204.05011; its benchmark of time and memory.
    """

    hidden: int = 2048
    """Units of the dense layer."""
    dropout: float = 0.0
    """Probability that an input of a dense layer is dropped in training."""

    def __post_init__(self) -> None:
        self.check_number("hidden", at_least=1)
        self.check_number("dropout", at_least=0, below=1)

    @classmethod
    def part_name(cls) -> str:
        """As its authors write it."""
        return "convnet2"

    def macs(self, facts: Facts) -> float:
        """As the LEAF CNN's."""
        return _macs("convnet2", facts, self.hidden)

    def torch(self, facts: Facts) -> Module:
        """For (1, 28, 28) and 62 classes: 6,603,902 parameters."""
        from torch import nn

        channels, pixels = _image("convnet2", facts)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(64 * pixels, self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, facts.num_classes),
        )


def _macs(model: str, facts: Facts, dense: int) -> float:
    """Of both convolutions, the second at half the height and width, and of both dense layers."""
    channels, pixels = _image(model, facts)
    height, width = facts.input_shape[1:]
    first, second = height * width * 32, (height // 2) * (width // 2) * 64
    return float(25 * (first * channels + second * 32) + dense * (64 * pixels + facts.num_classes))


def _image(model: str, facts: Facts) -> tuple[int, int]:
    """Channels of the images, and pixels that are left of each channel after pooling by 2 twice."""
    shape = facts.input_shape
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise UserError(
            f"model {model} reads images [channels, height, width] of at least 4x4, "
            f"but {facts.name} gives examples of shape {list(shape)}; use mlp or logistic"
        )
    return shape[0], (shape[1] // 4) * (shape[2] // 4)

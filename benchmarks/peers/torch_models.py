"""The models of works A to D in torch."""

from __future__ import annotations

import torch
from torch import nn


class WorkA(nn.Module):
    """The network of work A in the shape that Muster takes a user's model: a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model("A")

    def forward(self, x):
        """Scores [N, 62] of images [N, 1, 28, 28]."""
        return self.layers(x)


class WorkC(WorkA):
    """The same for work C."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layers = model("C")


class Block(nn.Module):
    """Two 3x3 convolutions and what goes around them, with group norms."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(ins, outs, 3, stride, 1, bias=False),
            nn.GroupNorm(2, outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, 1, 1, bias=False),
            nn.GroupNorm(2, outs),
        )
        self.around = nn.Sequential()
        if stride > 1 or ins != outs:
            self.around = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.GroupNorm(2, outs))

    def forward(self, x):
        """relu(way + around)."""
        return torch.relu(self.way(x) + self.around(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 32 x 32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(2, 64), nn.ReLU()]
    ins = 64
    for outs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(ins, outs, stride), Block(outs, outs, 1)]
        ins = outs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def model(name: str) -> nn.Module:
    """Two convolutions and two dense layers (A), 64-64-10 (B), ResNet-18 (C), ConvNet2 (D)."""
    if name == "C":
        return resnet18()
    if name == "D":
        return nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 49, 2048),
            nn.ReLU(),
            nn.Linear(2048, 62),
        )
    if name == "B":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 49, 512),
        nn.ReLU(),
        nn.Linear(512, 62),
    )

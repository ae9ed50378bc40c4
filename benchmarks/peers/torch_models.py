"""The models of works A and B in torch."""

from __future__ import annotations

from torch import nn


class WorkA(nn.Module):
    """The network of work A in the shape that Muster takes a user's model: a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model("A")

    def forward(self, x):
        """Scores [N, 62] of images [N, 1, 28, 28]."""
        return self.layers(x)


def model(name: str) -> nn.Module:
    """Two convolutions and two dense layers (A), or 64-64-10 (B)."""
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

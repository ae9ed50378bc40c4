"""Your own network: any torch.nn.Module. Run it with `muster run examples/own_model.yml`."""

from torch import Tensor, nn


class Net(nn.Module):
    """Two small convolutions. The settings under `model` in the job file are keywords of `__init__`.

    A parameter named `facts` is special: it brings what is known of the data (its shape, its classes),
    so that the network need not be written for one data set.
    """

    def __init__(self, facts, channels: int = 8):
        super().__init__()
        depth, height, width = facts.input_shape
        self.layers = nn.Sequential(
            nn.Conv2d(depth, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * height * width, facts.num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

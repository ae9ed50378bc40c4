"""Weighted updates gated and added where they were trained: integers, rounded as `FixedPointSum` rounds.

So what a GPU has trained comes back once for many clients, as one vector of 64-bit integers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.core.sums import FixedPointSum

from .torch_module import host

BLOCK_ELEMENTS = 1 << 25
"""Numbers that are turned into float64 at a time: 256 MB of a GPU's memory."""


class DeviceSum:
    """A running weighted sum on a device, of vectors that lie there.

    Args:
        total: What it is added to by `bring`; its scale is how updates are rounded.
        device: Where.

    """

    def __init__(self, total: FixedPointSum, device: torch.device) -> None:
        self._host, self._device = total, device
        self._sum = torch.zeros(len(total.total), dtype=torch.int64, device=device)
        self._rows = torch.zeros(0, device=device)

    def rows(self, *shape: int) -> Tensor:
        """Where updates are written: f32 of this shape, on the device, zeros at first."""
        if len(self._rows) < shape[0]:
            self._rows = torch.zeros(shape, device=self._device)
        return self._rows[: shape[0]]

    def measure(self, up: Tensor, trained: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Of updates f32[K, U, size]: norms of the deltas' first `trained` numbers, f64[K], and the largest
        magnitude in each, f32[K], NaN if there is a NaN in it.
        """
        norms = torch.linalg.vector_norm(up[:, 0, :trained], dim=1, dtype=torch.float64)
        smallest, greatest = up.flatten(1).aminmax(dim=1)
        told = host(torch.stack([norms, torch.maximum(-smallest, greatest).double()]))
        return told[0], told[1].astype(np.float32)

    def add_all(self, up: Tensor, weights: npt.NDArray[np.float64]) -> None:
        """Adds weights[k] * up[k], f64[K] in [0, 1] and f32[K, U, size], all finite."""
        factors = torch.from_numpy(weights * 2.0**self._host.scale).to(self._device)[:, None]
        vectors, width = up.flatten(1), max(BLOCK_ELEMENTS // len(up), 1)
        for start in range(0, vectors.shape[1], width):
            part = vectors[:, start : start + width].double()
            part *= factors
            whole = part.round_().to(torch.int64)  # to even, as numpy's rint
            self._sum[start : start + width] += whole.sum(0)

    def bring(self) -> None:
        """Adds the sum to the host's, and begins again from zero: all that comes back of the updates."""
        self._host.merge(host(self._sum))
        self._sum.zero_()

"""Multi-Krum: the plain mean of the n - f updates that Krum finds best (see `krum.py`)."""

from __future__ import annotations

from muster.core.algorithm import Algorithm

from .fedavg import fedavg
from .krum import Krum


def multi_krum() -> Algorithm:
    """The mean of the updates that are closest to their neighbours (Blanchard et al. 2017)."""
    return fedavg().but(name="multi_krum", combine=Krum(num_picks=None))

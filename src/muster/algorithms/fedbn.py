"""FedBN: every client normalises by its own statistics.

X. Li, M. Jiang, X. Zhang, M. Kamp, Q. Dou: FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization. ICLR 2021, arXiv:2102.07623, algorithm 1.

    as FedAvg, but what belongs to normalisation layers neither travels nor is averaged
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm
from muster.core.errors import UserError
from muster.core.params import ParamSpec

from .fedavg import SGD, fedavg


@dataclass(frozen=True)
class OwnNorms(SGD):
    """SGD by clients that keep their normalisation layers: scales, shifts and running statistics."""

    keeps: ClassVar[bool] = True

    def personal(self, spec: ParamSpec) -> tuple[str, ...]:
        """Entries of kind `norm` and `statistic`."""
        return tuple(entry.name for entry in spec.entries if entry.kind in ("norm", "statistic"))

    def check_model(self, spec: ParamSpec) -> None:
        """Refuses a model without normalisation layers, with which it would be FedAvg."""
        if not self.personal(spec):
            raise UserError(
                f"algorithm.local {self.part_name()} keeps normalisation layers at the client, but this "
                "model has none; take one of your own with batch or group norm, or algorithm fedavg"
            )


def fedbn() -> Algorithm:
    """FedBN: normalisation layers stay at the client (Li et al. 2021)."""
    return fedavg().but(name="fedbn", local=OwnNorms())

"""FedPer: the last layers stay at the client.

M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary: Federated Learning with Personalization Layers.
2019, arXiv:1912.00818, algorithm 1.

    model = base, shared as in FedAvg, and head, each client's own; both are trained together
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm
from muster.core.errors import UserError
from muster.core.params import ParamSpec

from .fedavg import SGD, fedavg


@dataclass(frozen=True)
class OwnHead(SGD):
    """SGD by clients that keep the last layers of the model to themselves."""

    head_layers: int = 1
    """How many of the last layers with parameters; the first layer is always shared."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("head_layers", at_least=1)

    def personal(self, spec: ParamSpec) -> tuple[str, ...]:
        """The entries of the last layers; a layer is what shares a name up to its last dot."""
        head = self._layers(spec)[1:][-self.head_layers :]
        return tuple(name for name in self._parameters(spec) if name.rpartition(".")[0] in head)

    def check_model(self, spec: ParamSpec) -> None:
        """Refuses a model of one layer: it is shared, and nothing would be left to be the client's own."""
        if len(layers := self._layers(spec)) < 2:
            raise UserError(
                f"algorithm.local {self.part_name()} keeps the last layers of the model at the client and "
                f"shares the others, but this model has only one with parameters ({layers[0] or 'no name'}); "
                "take one with more layers, such as mlp"
            )

    @staticmethod
    def _parameters(spec: ParamSpec) -> list[str]:
        return [entry.name for entry in spec.entries if entry.kind != "statistic"]

    def _layers(self, spec: ParamSpec) -> list[str]:
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self._parameters(spec)))


def fedper() -> Algorithm:
    """FedPer: a head of each client's own (Arivazhagan et al. 2019)."""
    return fedavg().but(name="fedper", local=OwnHead())

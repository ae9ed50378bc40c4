"""What a model is to Muster: settings from which each backend can build the same network."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from muster.core.part import Part

if TYPE_CHECKING:
    from torch.nn import Module

    from muster.core.examples import Facts


class Model(Part):
    """The settings of a network. What depends on the data (its shape, its classes) comes from `facts`."""

    backends: ClassVar[tuple[str, ...]] = ("torch",)
    """The backends that can train it: torch, numpy, numba, jax."""

    def macs(self, facts: Facts) -> float | None:
        """Multiply-adds of one example's forward pass, by formula; None: there is none, and they are counted.

        Those of matrix products and convolutions; biases are left out.
        """
        return None

    @abstractmethod
    def torch(self, facts: Facts) -> Module:
        """The network as a torch module: float32 parameters, drawn from torch's global generator.

        It maps inputs [B, *facts.input_shape] to scores [B, facts.num_classes].

        Raises:
            UserError: The model cannot read such inputs.
        """

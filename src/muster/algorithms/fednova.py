"""FedNova: clients that take more steps do not pull harder.

J. Wang, Q. Liu, H. Liang, G. Joshi, H. V. Poor: Tackling the Objective Inconsistency Problem in
Heterogeneous Federated Optimization. NeurIPS 2020, arXiv:2007.07481, equation 6.

    ‖a_i‖₁: the sum of the coefficients of the gradients in Δ_i (plain SGD: the number of steps, τ_i)
    x ← x + τ_eff Σ p_i Δ_i / ‖a_i‖₁            τ_eff = Σ p_i ‖a_i‖₁, or Σ p_i τ_i

The rule with momentum and proximal term is the paper's own recursion, `Local.worth`; the authors' code
departs from it when both are on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Combine, Info, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import fedavg


@dataclass(frozen=True)
class Nova(Combine):
    """The mean of the directions, each an update divided by what its steps are worth, times their mean."""

    by: Literal["examples", "uniform"] = "examples"
    """p_i: by the clients' numbers of examples, or equal."""
    effective: Literal["a_norm", "steps"] = "a_norm"
    """τ_eff: the mean of ‖a_i‖₁, or of the numbers of steps."""

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("by", ("examples", "uniform"))
        self.check_choice("effective", ("a_norm", "steps"))

    def max_weight(self, population: Population) -> float:
        """p_i of the largest client, since no step is worth less than one."""
        return float(population.num_examples.max()) if self.by == "examples" else 1.0

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """p_i / ‖a_i‖₁; a client that took no step has no direction."""
        return np.where(
            reports["num_steps"] > 0, self.divisors(reports) / np.maximum(reports["a_norm"], 1.0), 0.0
        )

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """p_i."""
        share = reports["num_examples"] if self.by == "examples" else np.ones(len(reports))
        return np.where(reports["num_steps"] > 0, share, 0.0)

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """Times τ_eff."""
        share = self.divisors(reports)
        steps = reports["a_norm" if self.effective == "a_norm" else "num_steps"]
        return {"delta": mean["delta"] * (fsum(share * steps) / fsum(share))}, state


def fednova() -> Algorithm:
    """FedNova: updates are normalised by what their steps are worth (Wang et al. 2020)."""
    return fedavg().but(name="fednova", combine=Nova())

"""DP-FedAvg: updates are clipped and the mean is noisy, so that no client shows in the model.

H. B. McMahan, D. Ramage, K. Talwar, L. Zhang: Learning Differentially Private Recurrent Language Models. ICLR
2018, arXiv:1710.06963. Adaptive clipping: G. Andrew, O. Thakkar, H. B. McMahan, S. Ramaswamy: Differentially
Private Learning with Adaptive Clipping. NeurIPS 2021, arXiv:1905.03871.

    Δ = (Σ Δ_i min(1, C / ‖Δ_i‖) + N(0, (z_Δ C)²)) / qN             every client counts as one
    b = (Σ [‖Δ_i‖ ≤ C] + N(0, σ_b²)) / qN;  C ← C e^(-η (b - γ))     z_Δ = (z^-2 - (2 σ_b)^-2)^(-1/2)

qN is how many clients are expected, not how many came, so that the count does not show either. What the
noise is worth depends on who was drawn and how: `muster.privacy` reckons it for the sampler that ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Combine, Info, Select, State, Vectors
from muster.core.errors import FieldError, UserError
from muster.core.population import Free, Population
from muster.core.tables import Ids, Table

from .fedavg import fedavg


@dataclass(frozen=True)
class Poisson(Select):
    """Each client by a coin of its own, so that how many take part is chance too."""

    rate: float = 0.1
    """Chance of each client to be drawn. The pace's cohort must have room for all that are."""

    may_draw_nobody: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("rate", above=0, at_most=1)

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """Those whose coin says so. More than `k` is an error: to leave some out would be no Poisson draw."""
        drawn = free.among(np.flatnonzero(rng.random(free.num_clients) < self.rate))
        if len(drawn) > k:
            raise UserError(
                f"poisson drew {len(drawn)} clients, but the pace has room for {k}; raise its cohort"
            )
        return drawn


@dataclass(frozen=True)
class Private(Combine):
    """The noisy mean of clipped updates."""

    noise_multiplier: float = 1.0
    """Noise over clip norm (the paper's z): the larger, the more private."""
    clip_norm: float = 1.0
    """C: longer updates are shortened to it; with `quantile`, where C begins."""
    quantile: float | None = None
    """The share of updates that C is to leave as they are (γ); null: C stays."""
    clip_rate: float = 0.2
    """How fast C moves there (η)."""
    count_noise: float | None = None
    """σ_b, the noise of the count by which C moves; null: a twentieth of the clients expected."""
    delta: float = 1e-5
    """The δ that ε is told for; less than one over the number of clients."""
    expected: float | None = None
    """qN, clients expected in a round; null: what follows from select and pace."""

    averages: ClassVar[bool] = False
    moves_alone: ClassVar[bool] = True  # or the model would show that nobody was drawn

    def __post_init__(self) -> None:
        self.check_number("noise_multiplier", above=0)
        self.check_number("clip_norm", above=0)
        self.check_number("quantile", above=0, below=1)
        self.check_number("clip_rate", above=0)
        self.check_number("count_noise", above=0)
        self.check_number("delta", above=0, below=1)
        self.check_number("expected", above=0)
        if self.quantile is not None and self.count_noise is not None:
            self.update_noise(self.count_noise)

    def update_noise(self, count_noise: float) -> float:
        """z_Δ: what is left for the updates when the count has its share of the noise multiplier.

        Raises:
            FieldError: The count's noise is too small: z < 2 σ_b must hold.

        """
        left = self.noise_multiplier**-2 - (2 * count_noise) ** -2
        if left <= 0:
            allowed = (
                f"below 2 x count_noise, {2 * count_noise:g}: the count of the clipped has its share of it"
            )
            raise FieldError("private", "noise_multiplier", self.noise_multiplier, allowed)
        return float(left**-0.5)

    def init(self, population: Population, params: Array) -> Vectors:
        """C."""
        return {"clip": np.array([self.clip_norm])}

    def max_weight(self, population: Population) -> float:
        """1."""
        return 1.0

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each."""
        return np.ones(len(reports))

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each."""
        return np.ones(len(reports))

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """Δ min(1, C / ‖Δ‖)."""
        clip, norm = float(now["clip"][0]), float(report["norm"])
        return ({"delta": up["delta"] * (clip / norm)} if norm > clip else {}), kept

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """Adds the noise, divides by the clients expected, and moves C."""
        count, clip = float(len(reports)), float(state["clip"][0])
        expected = max(count, 1.0) if self.expected is None else self.expected
        noise, moved = self.noise_multiplier, clip
        if self.quantile is not None:
            deviation = expected / 20 if self.count_noise is None else self.count_noise
            noise = self.update_noise(deviation)
            short = float(np.count_nonzero(reports["norm"] <= clip))
            share = (short + deviation * float(info.rng("clip count").standard_normal())) / expected
            moved = clip * exp(-self.clip_rate * (share - self.quantile))
        xp, delta = array_namespace(mean["delta"]), mean["delta"]
        drawn = xp.asarray(info.rng("noise").standard_normal(delta.shape[0]), dtype=delta.dtype)
        noisy = delta * (count / expected) + drawn * (noise * clip / expected)
        return {"delta": noisy}, {"clip": np.array([moved])}


def dp_fedavg() -> Algorithm:
    """FedAvg with differential privacy for each client (McMahan et al. 2018, Andrew et al. 2021)."""
    return fedavg().but(name="dp_fedavg", combine=Private())

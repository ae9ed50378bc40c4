"""What a private run gives away: epsilon, by the accountant `dp-accounting`, for the sampler that ran.

Drawing few of many amplifies privacy, but only where the draw is what the theorem says: each client by its
own coin (Poisson) or a fixed number uniformly, out of a population that is always there, with nothing
that picks among the drawn (over-commitment, a deadline, tasks that get lost). Elsewhere every version
counts in full, and the run says why.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.algorithms.dp_fedavg import Poisson, Private
from muster.algorithms.fedavg import Sync, Uniform
from muster.core.algorithm import Algorithm
from muster.core.errors import UserError
from muster.core.params import ParamSpec
from muster.core.population import Population


@dataclass(frozen=True)
class Privacy:
    """The mechanism of one version, and how many versions of it add up."""

    sampler: str
    """`poisson`, `fixed` (so many of all, without replacement), or `none`: not amplified."""
    why: str
    """The sampler as a sentence; why nothing is amplified, if nothing is."""
    noise_multiplier: float
    delta: float
    rate: float
    """Chance of a client to be drawn; 1 where nothing is amplified."""
    drawn: int = 0
    """Of a fixed draw: how many of how many."""
    num_clients: int = 0

    @property
    def amplified(self) -> bool:
        """Whether the draw hides who took part."""
        return self.sampler != "none"

    def epsilon(self, versions: int) -> float:
        """ε at this δ after so many versions; 0 before the first.

        Neighbours differ by one client that is there or not; for a fixed draw, by one that is another, so
        that a sum may differ by 2 C instead of C.
        """
        if versions == 0:
            return 0.0
        from dp_accounting.rdp import compute_epsilon

        orders, one = _of_one_version(self)
        return float(compute_epsilon(orders, versions * one, self.delta)[0])

    def to_json(self, versions: int) -> dict[str, Any]:
        """What `summary.json` says."""
        return {
            "epsilon": self.epsilon(versions),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "sampler": self.sampler,
            "amplified": self.amplified,
            "why": self.why,
        }


@cache
def _of_one_version(privacy: Privacy) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Orders, and the Rényi divergence of each that one version costs: the versions' add up."""
    try:
        import dp_accounting as dp
        from dp_accounting.rdp import RdpAccountant
    except ImportError:
        raise UserError(
            "algorithm.combine is private, and dp-accounting is not installed: pip install 'muster-fl[dp]'"
        ) from None
    relation, event = dp.NeighboringRelation.ADD_OR_REMOVE_ONE, dp.GaussianDpEvent(privacy.noise_multiplier)
    if privacy.sampler == "poisson":
        event = dp.PoissonSampledDpEvent(privacy.rate, event)
    elif privacy.sampler == "fixed":
        relation, half = dp.NeighboringRelation.REPLACE_ONE, dp.GaussianDpEvent(privacy.noise_multiplier / 2)
        event = dp.SampledWithoutReplacementDpEvent(privacy.num_clients, privacy.drawn, half)
    logging.getLogger("absl").setLevel(logging.ERROR)  # it tells of each order that it leaves out
    accountant = RdpAccountant(neighboring_relation=relation)
    accountant.compose(event)
    return (
        accountant._orders,
        accountant._rdp,
    )  # it costs half a second; its epsilon of T versions is of T x this


def reckoned(algorithm: Algorithm, population: Population, dropout: float, spec: ParamSpec) -> Privacy | None:
    """How a run of this algorithm is accounted for; None if it is not private.

    Raises:
        UserError: The algorithm is private, and something of a client would get past the noise.

    """
    combine, select, pace = algorithm.combine, algorithm.select, algorithm.pace
    if not isinstance(combine, Private):
        return None
    if not isinstance(pace, Sync):
        raise UserError(
            "algorithm.combine is private, so algorithm.pace must be sync: elsewhere a client may count "
            "twice in one version"
        )
    if spec.trained < spec.size:
        raise UserError(
            "algorithm.combine is private, but the model has running statistics (batch norm), to which no "
            "noise is added; take a model without"
        )
    if len(algorithm.local.up) > 1:
        raise UserError(
            f"algorithm.combine is private, but clients also send {', '.join(algorithm.local.up[1:])}, to "
            "which no noise is added; take a local rule that sends the delta only"
        )
    count, z, delta = population.num_clients, combine.noise_multiplier, combine.delta
    what = {
        "the select draws by more than chance": not isinstance(select, (Uniform, Poisson)),
        "clients come and go": population.availability is not None,
        "tasks get lost": dropout > 0,
        "the deadline picks the fast": pace.deadline_secs is not None,
        "over-commitment picks the fast": isinstance(select, Uniform) and pace.max_out > pace.cohort,
    }
    if any(what.values()):
        why = "not amplified: " + ", ".join(reason for reason, so in what.items() if so)
        return Privacy("none", why, z, delta, 1.0)
    if isinstance(select, Poisson):
        return Privacy(
            "poisson", f"each of {count} clients by a coin of {select.rate:g}", z, delta, select.rate
        )
    drawn = pace.cohort
    why = f"{drawn} of {count} clients, uniformly without replacement"
    return Privacy("fixed", why, z, delta, drawn / count, drawn, count)


def expecting(algorithm: Algorithm, num_clients: int) -> Algorithm:
    """The same with the clients that a private mean expects in a round filled in.

    A round of Poisson draws does not wait for the cohort, which is only the most that there is room for.
    """
    combine, select, pace = algorithm.combine, algorithm.select, algorithm.pace
    if isinstance(select, Poisson) and isinstance(pace, Sync) and pace.min_start is None:
        algorithm = algorithm.but(pace=replace(pace, min_start=pace.min_reports))
    if not isinstance(combine, Private) or combine.expected is not None:
        return algorithm
    expected = select.rate * num_clients if isinstance(select, Poisson) else float(pace.max_accepts)
    if combine.quantile is not None and combine.count_noise is None:
        combine = replace(combine, count_noise=expected / 20)
    return algorithm.but(combine=replace(combine, expected=expected))

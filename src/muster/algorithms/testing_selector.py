"""Oort's testing selector: few clients whose data is enough to test a model on.

F. Lai, X. Zhu, H. V. Madhyastha, M. Chowdhury: Oort: Efficient Federated Learning via Guided Participant
Selection. OSDI 2021, arXiv:2010.06081, section 5.

By deviation, when nothing is known of the data: so many clients, drawn uniformly, that their average is
within `deviation` of everybody's with the chance `confidence` (Hoeffding's bound for draws without
replacement, R. J. Serfling, Annals of Statistics 2, 1974). By category, when counts by class are known: who
tests how many of which class so that all counts are met and the slowest is done soonest: a greedy cover picks
few clients, a mixed-integer program (HiGHS, by scipy) deals the examples out to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError
from muster.core.randomness import rng
from muster.core.tables import Ids

PAD = 200
"""The program chooses among so many clients if the budget allows: more than the cover may be faster."""


def bound(deviation: float, spread: float, num_clients: int, confidence: float = 0.95) -> float:
    """How many clients it takes, before rounding up; never more than there are.

    Args:
        deviation: How far the average of a number that each client has may be off.
        spread: The largest less the smallest that this number can be.
        num_clients: Size of the population.
        confidence: Chance that it is not further off.

    Raises:
        UserError: A number is out of its bounds.

    """
    for name, value, fine in (
        ("deviation", deviation, deviation > 0),
        ("range", spread, spread > 0),
        ("confidence", confidence, 0 < confidence < 1),
        ("number of clients", num_clients, num_clients >= 1),
    ):
        if not (fine and math.isfinite(value)):
            allowed = "between 0 and 1, both excluded" if name == "confidence" else "a finite number above 0"
            raise UserError(f"the {name} is {value}, but must be {allowed}")
    share = deviation / spread
    needed = (num_clients + 1) / (1 - 2 * num_clients / math.log(1 - confidence) * share * share)
    return min(float(num_clients), needed)


def by_deviation(
    deviation: float, spread: float, num_clients: int, confidence: float = 0.95, seed: int = 0
) -> Ids:
    """The clients to test on, i64[n], drawn uniformly by seed; see `bound` for the arguments."""
    count = math.ceil(bound(deviation, spread, num_clients, confidence) - 1e-9)
    return rng(seed, "select test").choice(num_clients, count, replace=False)


@dataclass(frozen=True)
class Duties:
    """Who tests what."""

    clients: Ids
    """i64[n]."""
    examples: npt.NDArray[np.int64]
    """[n, G]: how many of each class each of them tests."""
    secs: float
    """Until the slowest is done: loading the model, and one forward pass an example."""


def by_category(
    counts: npt.NDArray[np.int64],
    request: npt.NDArray[np.int64],
    ms_per_example: npt.NDArray[np.floating],
    load_secs: npt.NDArray[np.floating],
    budget: int,
    *,
    gap: float = 0.05,
    limit_secs: float = 60.0,
) -> Duties:
    """Deals a test of so many examples of each class out to at most `budget` clients.

    Args:
        counts: [C, G], how many examples of each class each client holds.
        request: [G], how many of each are to be tested.
        ms_per_example: [C], of each client's forward pass.
        load_secs: [C], seconds in which each loads the model.
        budget: The most clients that may take part.
        gap: The duration may be longer than the best by this share.
        limit_secs: The program ends after so long with the best it has.

    Raises:
        UserError: There are not as many examples, or not so few clients that hold them.

    """
    held = counts.sum(axis=0)
    short = np.flatnonzero(held < request)
    if len(short):
        g = int(short[0])
        raise UserError(
            f"{int(request[g])} examples of class {g} are asked for, but all clients have {held[g]}"
        )
    if request.min(initial=0) < 0 or request.sum() == 0:
        raise UserError("the test must ask for at least one example, and for none less than 0 times")
    chosen = _cover(counts, request)
    if len(chosen) > budget:
        raise UserError(
            f"the budget is {budget} clients, but the cover needs {len(chosen)}; raise it, or ask for less"
        )
    alone = load_secs + ms_per_example * np.minimum(counts, request).sum(axis=1) / 1000
    useful = np.setdiff1d(np.flatnonzero((counts[:, request > 0] > 0).any(axis=1)), chosen)
    more = useful[np.argsort(alone[useful], kind="stable")][: max(0, min(PAD, budget) - len(chosen))]
    pool = np.concatenate([chosen, more])
    dealt = _deal(counts[pool], request, ms_per_example[pool], load_secs[pool], gap, limit_secs)
    kept = dealt.sum(axis=1) > 0
    pool, dealt = pool[kept], dealt[kept]
    secs = load_secs[pool] + dealt.sum(axis=1) * ms_per_example[pool] / 1000
    return Duties(pool, dealt, float(secs.max()))


def _cover(counts: npt.NDArray[np.int64], request: npt.NDArray[np.int64]) -> Ids:
    """Clients that hold what is asked for: again and again the one that has most of what is missing."""
    left, unused = request.copy(), counts.copy()
    chosen: list[int] = []
    while left.any():
        client = int(np.minimum(unused, left).sum(axis=1).argmax())
        chosen.append(client)
        left -= np.minimum(counts[client], left)
        unused[client] = 0
    return np.array(chosen, np.int64)


def _deal(
    counts: npt.NDArray[np.int64],
    request: npt.NDArray[np.int64],
    ms_per_example: npt.NDArray[np.floating],
    load_secs: npt.NDArray[np.floating],
    gap: float,
    limit_secs: float,
) -> npt.NDArray[np.int64]:
    """[n, G]: examples of each class for each client such that the slowest is done soonest.

    Unknowns: the duration T, whether each takes part z_i, how many of each class q_ig <= counts_ig z_i.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_array, coo_array, eye_array, kron

    classes = np.flatnonzero(request)
    held, asked = np.minimum(counts[:, classes], request[classes]), request[classes]
    n, width = held.shape
    ones = np.ones((1, width))
    # ms_i Σ_g q_ig + load_i z_i - T <= 0; Σ_i q_ig = request_g; q_ig - held_ig z_i <= 0.
    per_client = kron(coo_array(np.diag(ms_per_example / 1000)), ones)
    busy = block_array([[coo_array(-np.ones((n, 1))), coo_array(np.diag(load_secs)), per_client]])
    met = block_array([[coo_array((width, 1 + n)), kron(np.ones((1, n)), eye_array(width))]])
    z_of = coo_array((-held.ravel(), (np.arange(n * width), np.repeat(np.arange(n), width))))
    takes = block_array([[coo_array((n * width, 1)), z_of, eye_array(n * width)]])
    found = milp(
        np.r_[1.0, np.zeros(n + n * width)],
        constraints=[
            LinearConstraint(busy, -np.inf, 0),
            LinearConstraint(met, asked, asked),
            LinearConstraint(takes, -np.inf, 0),
        ],
        integrality=np.r_[0, np.ones(n + n * width)],
        bounds=Bounds(0, np.r_[np.inf, np.ones(n), held.ravel()]),
        options={"mip_rel_gap": gap, "time_limit": limit_secs},
    )
    if found.x is None:
        raise UserError(f"no division of the test was found within {limit_secs:g} s; allow more time")
    dealt = np.zeros((n, len(request)), np.int64)
    dealt[:, classes] = np.rint(found.x[1 + n :]).astype(np.int64).reshape(n, width)
    return dealt

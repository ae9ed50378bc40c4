"""What an upload says of itself, as the control plane reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from muster.core.tables import REPORT, Refusal, Table, rows

from .roster import Member

REPORTED = ("num_examples", "num_steps", "loss", "loss_sq_mean", "loss_before", "secs")
REASONS: Mapping[Refusal, str] = {
    Refusal.WRONG_SHAPE: "it is no update of this model",
    Refusal.NON_FINITE: "it holds NaN or infinity",
    Refusal.TOO_LARGE: "a coordinate is beyond 1,024",
    Refusal.BAD_WEIGHT: "its weight is negative, or more than its client's examples allow",
}


UNSAID = -1
"""In place of a number of examples: as many as are known. When a client joins, as its row of the job's data
set has; in what it says later, as it has joined with."""


def said_or(known: int, num_examples: int) -> int:
    """A number of examples as a client says it, or what is known where it does not."""
    return known if num_examples == UNSAID else num_examples


def report_row(member: Member, head: Any) -> Table:
    """The REPORT row of an upload, one, as far as its client knows it."""
    said = head.report
    num = said_or(member.num_examples, said.num_examples)
    return rows(
        REPORT,
        1,
        ticket=head.ticket,
        client=member.client,
        num_examples=np.clip(num, -1, 2**31 - 1),
        num_steps=np.clip(said.num_steps, 0, 2**31 - 1),
        loss=said.loss,
        loss_sq_mean=said.loss_sq_mean,
        loss_before=said.loss_before,
        secs=said.secs,
    )

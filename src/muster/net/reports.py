"""What an upload says of itself, as the control plane reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from muster.core.tables import REPORT, Refusal, Table, rows

REPORTED = ("num_examples", "num_steps", "loss", "loss_sq_mean", "loss_before", "secs")
REASONS: Mapping[Refusal, str] = {
    Refusal.WRONG_SHAPE: "it is no update of this model",
    Refusal.NON_FINITE: "it holds NaN or infinity",
    Refusal.TOO_LARGE: "a coordinate is beyond 1,024",
    Refusal.BAD_WEIGHT: "its weight is negative, or more than its client's examples allow",
}


def report_row(client: int, head: Any) -> Table:
    """The REPORT row of an upload, one, as far as the client knows it."""
    said = head.report
    return rows(
        REPORT,
        1,
        ticket=head.ticket,
        client=client,
        num_examples=np.clip(said.num_examples, -1, 2**31 - 1),
        num_steps=np.clip(said.num_steps, 0, 2**31 - 1),
        loss=said.loss,
        loss_sq_mean=said.loss_sq_mean,
        loss_before=said.loss_before,
        secs=said.secs,
    )

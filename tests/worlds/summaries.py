"""A summary of records made by hand, for tests of those who show one."""

from __future__ import annotations

from collections.abc import Iterable

from muster.core.record import Record
from muster.track.summary import Summary, Tally


def summarise(
    records: Iterable[Record],
    status: str,
    why: str,
    target: tuple[str, float] | None,
    *ends,
    **changes,
) -> Summary:
    """Folds the records into a Tally; the rest goes to `Tally.summary`."""
    tally = Tally(target)
    for record in records:
        tally.add(record)
    return tally.summary(status, why, *ends, **changes)

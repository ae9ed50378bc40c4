"""Puts what a benchmark measured between its two marks in docs/benchmarks.md."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path


def write_between(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the two marks `<!-- name -->` of a page, with date and machine."""
    mark = f"<!-- {name} -->"
    before, _, rest = page.read_text().partition(mark)
    _, found, after = rest.partition(mark)
    if not found:
        raise ValueError(f"{page} must hold {mark} twice")
    told = f"{datetime.date.today()}, {platform.machine()}."
    page.write_text(f"{before}{mark}\n{told}\n\n{text}\n{mark}{after}")

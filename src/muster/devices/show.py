"""A population at a glance: quantiles of its columns, and how many are online at which hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError
from muster.core.population import Population
from muster.core.tables import SECOND

from .availability import share_online

SHARES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
"""Quantiles that are shown."""
HOUR = 3_600 * SECOND
ASKED = 20_000
"""Clients that are asked for every hour; of more, so many at even distances."""


def columns(population: Population) -> dict[str, npt.NDArray[np.float32]]:
    """The columns that are shown, by name and unit: f32[C] each."""
    found = {
        "compute_ms": population.ms_per_example,
        "down_kbps": population.down_kbps,
        "up_kbps": population.up_kbps,
    }
    return found if population.memory_mb is None else {**found, "memory_mb": population.memory_mb}


def quantiles(population: Population) -> dict[str, list[float]]:
    """Of each column, the values at SHARES."""
    return {name: np.quantile(values, SHARES).tolist() for name, values in columns(population).items()}


def online_by_hour(population: Population) -> list[float]:
    """Share of clients online at each hour of the day, by the run's clock; the mean of seven days."""
    share = [share_online(population, hour * HOUR, ASKED) for hour in range(7 * 24)]
    return [float(value) for value in np.reshape(share, (7, 24)).mean(axis=0)]


def description(population: Population) -> dict[str, Any]:
    """What `muster devices show --json` prints of a population: plain numbers."""
    return {
        "num_clients": population.num_clients,
        "shares": list(SHARES),
        "quantiles": quantiles(population),
        "online_by_hour": online_by_hour(population),
    }


def picture(population: Population, title: str, file: Path) -> None:
    """Draws cumulative curves of the columns, and the share online by hour, into a PNG file.

    Raises:
        UserError: The extra [report] is not installed, or the file cannot be written.

    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "pictures need matplotlib; install it with: pip install 'muster-fl[report]'"
        ) from error
    shown = columns(population)
    figure = Figure(figsize=(3.2 * (len(shown) + 1), 3), layout="constrained")
    panels = figure.subplots(1, len(shown) + 1)
    share = np.linspace(0, 1, 501)
    for panel, (name, values) in zip(panels, shown.items(), strict=False):
        panel.plot(np.quantile(values, share), share)
        panel.set(xlabel=name.replace("_", ", "), xscale="log", ylim=(0, 1), ylabel="share of clients")
    panels[-1].plot(range(24), online_by_hour(population))
    panels[-1].set(xlabel="hour of the day", ylabel="share online", ylim=(0, None), xticks=range(0, 25, 6))
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    try:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error

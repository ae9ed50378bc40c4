"""curve.png: metric and loss against rounds and virtual time, at a glance."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Iterable

from muster.core.record import Record

from .history import History, thin
from .summary import headline
from .units import time_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too (jfly.uni-koeln.de/color).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6b7280"


def curve(records: Iterable[Record]) -> Figure:
    """Small multiples: a row for the main metric, a row for loss; against rounds and virtual time.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    history = History(records)
    metric = headline(history.metrics)
    rows = [name for name in (metric, "loss") if name is not None]
    rows = list(dict.fromkeys(rows))
    figure = Figure(figsize=(9, 3.1 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    longest = float(history.columns["now_secs"][-1]) if len(history) else 0.0
    unit, unit_name = time_unit(longest)
    for row, name in zip(axes, rows, strict=True):
        for axis, against, scale in zip(row, ("version", "now_secs"), (1.0, unit), strict=True):
            _draw(axis, history, name, against, scale)
        row[0].set_ylabel(name)
    axes[-1][0].set_xlabel("rounds")
    axes[-1][1].set_xlabel(f"virtual time, {unit_name}")
    return figure


def _draw(axis: Any, history: History, name: str, against: str, scale: float) -> None:
    lines = [(name, f"test {name}", BLUE)]
    if name == "loss":
        lines.insert(0, ("", "training loss", ORANGE))  # the test curve is drawn over it
    drawn = 0
    for metric, label, colour in lines:
        x, y = thin(*history.curve(metric, against))
        if len(x):
            mark = "o" if len(x) <= 40 else None
            axis.plot(x / scale, y, color=colour, label=label, linewidth=1.6, marker=mark, markersize=3)
            drawn += 1
    if not drawn:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color=GREY)
    if drawn > 1:
        axis.legend(frameon=False, fontsize=8)
    axis.grid(visible=True, color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors="#374151")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()

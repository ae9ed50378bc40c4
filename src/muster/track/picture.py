"""Charts as one PNG file, drawn by matplotlib: `curve.png` and `report.png`."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, Iterable, Sequence

import numpy as np

from muster.core.record import Record

from .charts import Bars, Chart, Gantt, Lines, Section
from .history import History, thin
from .summary import headline
from .views import AXES, learning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too (jfly.uni-koeln.de/color); and two more.
COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#8D99AB", "#CC79A7", "#56B4E9", "#8B5E3C")
GREY = "#6b7280"
ROW_INCHES, LANE_INCHES = 3.1, 0.14


def curve(records: Iterable[Record]) -> Figure:
    """The main metric, and loss, against rounds and virtual time: a run at a glance.

    Raises:
        ImportError: matplotlib is not installed.
    """
    history = History(records)
    only = [name for name in (headline(history.metrics), "loss") if name is not None]
    charts = learning(history, None, only, AXES[:2])
    return _figure([charts[i : i + 2] for i in range(0, len(charts), 2)], 4.5)


def picture(sections: Sequence[Section], title: str) -> Figure:
    """All charts of a report, a heading a section.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows: list[list[Chart]] = []
    for section in sections:
        small = [chart for chart in section.charts if not isinstance(chart, Gantt)]
        rows += [list(small[i : i + 3]) for i in range(0, len(small), 3)]
        rows += [[chart] for chart in section.charts if isinstance(chart, Gantt)]
    return _figure(rows, 4.6, title)


def _figure(rows: Sequence[Sequence[Chart]], inches: float, title: str = "") -> Figure:
    """A figure of rows of charts; a Gantt chart is as wide as a row, and as high as its lanes."""
    from matplotlib.figure import Figure

    across = max((len(row) for row in rows), default=1)
    heights = [
        max(ROW_INCHES + LANE_INCHES * (len(row[0].lanes) - 15), 1.5)
        if isinstance(row[0], Gantt)
        else ROW_INCHES
        for row in rows
    ]
    figure = Figure(figsize=(inches * across, max(sum(heights), 1.0)), dpi=120, layout="constrained")
    if rows:
        grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
        for number, row in enumerate(rows):
            for at, chart in enumerate(row):
                place = grid[number, :] if isinstance(chart, Gantt) else grid[number, at]
                _draw(figure.add_subplot(place), chart)
    if title:
        figure.suptitle(title)
    return figure


def _draw(axis: Any, chart: Chart) -> None:
    match chart:
        case Lines():
            drawn = _lines(axis, chart)
        case Bars():
            drawn = _bars(axis, chart)
        case Gantt():
            drawn = _gantt(axis, chart)
    if not drawn:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color=GREY)
    axis.set_title(chart.title, fontsize=10, loc="left")
    wide = 190 if isinstance(chart, Gantt) else 66
    axis.set_xlabel("\n".join([chart.x_label, textwrap.fill(chart.note, wide)]).rstrip(), fontsize=8)
    if chart.keys and drawn:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 0.99), "borderaxespad": 0}
        axis.legend(
            frameon=False, fontsize=8, ncols=3 if len(chart.keys) > 4 else 4, columnspacing=1, **place
        )
    axis.grid(visible=True, color="#e5e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors="#374151")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _lines(axis: Any, chart: Lines) -> int:
    shown = [s for s in chart.series if len(s.x)]
    for s in shown:
        x, y = thin(s.x, s.y)
        mark = "o" if len(x) <= 40 else None
        axis.plot(x, y, color=COLOURS[s.colour], label=s.name, linewidth=1.6, marker=mark, markersize=3)
    if shown and chart.from_zero:
        axis.set_ylim(bottom=0)
    if shown and chart.goal is not None:
        axis.axhline(chart.goal, color=GREY, linestyle="--", linewidth=1)
    if shown:
        axis.xaxis.set_major_formatter(lambda value, _: chart.x_text(round(value, 12)))
        axis.yaxis.set_major_formatter(lambda value, _: chart.y_text(round(value, 12)))
    return len(shown)


def _bars(axis: Any, chart: Bars) -> int:
    if len(chart.edges) < 2:
        return 0
    floor = np.zeros(len(chart.edges) - 1)
    width = np.diff(chart.edges)
    for name, heights, colour in chart.layers:
        axis.bar(
            chart.edges[:-1], heights, 0.9 * width, floor, align="edge", color=COLOURS[colour], label=name
        )
        floor = floor + heights
    return len(chart.layers)


def _gantt(axis: Any, chart: Gantt) -> int:
    for name, colour in chart.keys:
        bars = [bar for bar in chart.bars if bar.colour == colour]
        lanes, starts = [bar.lane for bar in bars], [bar.start for bar in bars]
        widths = [bar.stop - bar.start for bar in bars]
        axis.barh(lanes, widths, 0.7, starts, color=COLOURS[colour], label=name)
    for mark in chart.marks:
        axis.axvline(mark, color="#d1d5db", linewidth=0.6, zorder=0)
    axis.set_yticks(range(len(chart.lanes)), chart.lanes)
    axis.set_ylim(len(chart.lanes) - 0.4, -0.6)
    return len(chart.bars)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()

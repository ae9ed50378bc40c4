"""What a chart shows, as data: drawn as SVG on a page (`svg`) and by matplotlib in a PNG (`picture`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, TypeAlias

from .history import Column

Text: TypeAlias = Callable[[float], str]

NUM_COLOURS = 8
"""Colours 0 to 7: blue, vermilion, yellow, green, grey, purple, sky, brown."""


def tick_text(value: float) -> str:
    """A number on an axis: 0.05, 20, 1.5k, 2M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{suffix}"
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


@dataclass(frozen=True)
class Series:
    """One curve; `x` and `y` have the same length and are finite."""

    name: str
    x: Column
    y: Column
    colour: int = 0


@dataclass(frozen=True)
class Lines:
    """Curves over a numeric axis. Empty ones are left out; when all are, the chart says so."""

    title: str
    series: tuple[Series, ...]
    x_label: str
    note: str = ""
    """A sentence or two below it."""
    x_text: Text = tick_text
    """Writes the ticks of x."""
    y_text: Text = tick_text
    """Writes the ticks of y."""
    from_zero: bool = False
    """y begins at 0."""
    goal: float | None = None
    """A dashed line at this y."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Names and colours for a legend; none where there is one curve and could be no more."""
        return [(s.name, s.colour) for s in self.series if len(s.x)] if len(self.series) > 1 else []


@dataclass(frozen=True)
class Bars:
    """Stacked bars between neighbouring `edges`."""

    title: str
    edges: Column
    """[N + 1]: where bars begin and end."""
    layers: tuple[tuple[str, Column, int], ...]
    """(name, heights [N], colour), from below."""
    x_label: str
    note: str = ""
    y_text: Text = tick_text

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Names and colours for a legend; none where there is one layer."""
        return [(name, colour) for name, _, colour in self.layers] if len(self.layers) > 1 else []


@dataclass(frozen=True)
class Bar:
    """A stretch of time in a lane."""

    lane: int
    start: float
    stop: float
    colour: int
    told: str
    """What is said of it when it is pointed at."""


@dataclass(frozen=True)
class Gantt:
    """Who did what when: a lane for each, the first on top."""

    title: str
    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    x_label: str
    keys: list[tuple[str, int]]
    """Names and colours for the legend."""
    marks: tuple[float, ...] = ()
    """Instants that all lanes share."""
    note: str = ""


Chart: TypeAlias = Lines | Bars | Gantt


@dataclass(frozen=True)
class Section:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]

"""Charts as inline SVG: no library, no script; colours come from the page's style sheet.

A chart is drawn on a canvas of WIDTH x HEIGHT and scales with its place on the page. Classes `s0`, `s1`,
... are the colours of series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Callable, Sequence

import numpy as np

from .history import Column, thin

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 38
HOVER_POINTS = 200
"""Curves of at most so many points show each point's values when the mouse is over it."""

Text = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """One curve or one layer of bars; `x` and `y` have the same length and are finite."""

    name: str
    x: Column
    y: Column
    colour: int = 0


def tick_text(value: float) -> str:
    """A number on an axis: 0.05, 20, 1.5k, 2M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{suffix}"
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 x 10^n that span `low`..`high`, about `count` of them."""
    if high <= low:
        low, high = (low * 0.9, high * 1.1) if low > 0 else (low, low + 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Maps data to the canvas."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        width = (self.x_high - self.x_low) or 1.0
        return LEFT + (value - self.x_low) / width * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        height = (self.y_high - self.y_low) or 1.0
        return HEIGHT - BOTTOM - (value - self.y_low) / height * (HEIGHT - TOP - BOTTOM)


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    *,
    y_text: Text = tick_text,
    from_zero: bool = False,
    goal: float | None = None,
) -> str:
    """Curves over a numeric axis, thinned where they have more than 2,000 points.

    Args:
        title: Read aloud by screen readers.
        series: Empty ones are left out; when all are, the chart says so.
        x_label: Under the axis.
        y_text: Writes the ticks of y.
        from_zero: y begins at 0.
        goal: A dashed line at this y.
    """
    shown = [s for s in series if len(s.x)]
    if not shown:
        return _empty(title)
    values = np.concatenate([s.y for s in shown])
    lows = [float(values.min()), *([goal] if goal is not None else []), *([0.0] if from_zero else [])]
    highs = [float(values.max()), *([goal] if goal is not None else [])]
    y_ticks = ticks(min(lows), max(highs))
    x_low = min(0.0, min(float(s.x.min()) for s in shown))
    x_high = max(float(s.x.max()) for s in shown) or 1.0
    frame = _Frame(x_low, x_high, y_ticks[0], y_ticks[-1])
    body = [_axes(frame, y_ticks, y_text, x_label, [t for t in ticks(x_low, x_high) if t <= x_high])]
    if goal is not None:
        y = frame.y(goal)
        body.append(f'<line class="goal" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for s in shown:
        body.append(_curve(frame, s, x_label, y_text))
    return _svg(title, "".join(body))


def _curve(frame: _Frame, s: Series, x_label: str, y_text: Text) -> str:
    points = [(float(x), float(y)) for x, y in zip(*thin(s.x, s.y), strict=True)]
    at = [(frame.x(x), frame.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    body = f'<polyline class="s{s.colour}" points="{path}"/>'
    if len(points) <= HOVER_POINTS:
        radius = 2.5 if len(points) <= 40 else 0
        for (x, y), (px, py) in zip(points, at, strict=True):
            told = escape(f"{s.name}: {y_text(y)} at {tick_text(round(x, 4))} {x_label}")
            dot = (
                f'<circle class="dot s{s.colour}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'
                if radius
                else ""
            )
            body += (
                f'<g>{dot}<circle class="hit" cx="{px:.1f}" cy="{py:.1f}" r="7"/><title>{told}</title></g>'
            )
    return body


def bar_chart(
    title: str,
    edges: Column,
    layers: Sequence[tuple[str, Column, int]],
    x_label: str,
    *,
    x_text: Text = tick_text,
    y_text: Text = tick_text,
) -> str:
    """Stacked bars between neighbouring `edges` [N + 1].

    Args:
        title: Read aloud by screen readers.
        edges: Where bars begin and end.
        layers: (name, heights [N], colour), from below.
        x_label: Under the axis.
        x_text: Writes the ticks of x.
        y_text: Writes the ticks of y.
    """
    if len(edges) < 2 or not layers:
        return _empty(title)
    heights = np.sum([layer[1] for layer in layers], axis=0)
    y_ticks = ticks(0.0, float(heights.max()) or 1.0)
    frame = _Frame(float(edges[0]), float(edges[-1]), 0.0, y_ticks[-1])
    x_ticks = [t for t in ticks(frame.x_low, frame.x_high) if frame.x_low <= t <= frame.x_high]
    body = [_axes(frame, y_ticks, y_text, x_label, x_ticks, x_text)]
    floor = np.zeros(len(heights))
    for name, layer, colour in layers:
        for i, value in enumerate(layer):
            if value <= 0:
                continue
            left, right = frame.x(float(edges[i])), frame.x(float(edges[i + 1]))
            gap = min(1.0, (right - left) * 0.15)
            top, bottom = frame.y(float(floor[i] + value)), frame.y(float(floor[i]))
            told = escape(
                f"{name}: {y_text(float(value))} ({x_text(float(edges[i]))} to {x_text(float(edges[i + 1]))})"
            )
            body.append(
                f'<rect class="s{colour}" x="{left + gap / 2:.2f}" y="{top:.2f}" '
                f'width="{right - left - gap:.2f}" height="{bottom - top:.2f}"><title>{told}</title></rect>'
            )
        floor = floor + layer
    return _svg(title, "".join(body))


def _axes(
    frame: _Frame,
    y_ticks: Sequence[float],
    y_text: Text,
    x_label: str,
    x_ticks: Sequence[float],
    x_text: Text = tick_text,
) -> str:
    body = []
    for tick in y_ticks:
        y = frame.y(tick)
        body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(y_text(tick))}</text>')
    floor = HEIGHT - BOTTOM
    body.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for tick in x_ticks:
        x = frame.x(tick)
        text = escape(x_text(tick))
        body.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "".join(body)


def _empty(title: str) -> str:
    return _svg(
        title, f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing was measured</text>'
    )


def _svg(title: str, body: str) -> str:
    name = escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{body}</svg>'

"""Charts as inline SVG: no library, no script; colours come from the page's style sheet.

A chart is drawn on a canvas of WIDTH x HEIGHT (a Gantt chart on a wider one) and scales with its place on
the page. Classes `s0`, `s1`, ... are the colours of series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Sequence

import numpy as np

from .charts import Bars, Chart, Gantt, Lines, Series, Text, tick_text
from .history import thin

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 38
GANTT_WIDTH, LANE = 1152, 15
HOVER_POINTS = 200
"""Curves of at most so many points show each point's values when the mouse is over it."""


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element."""
    match chart:
        case Lines():
            return _lines(chart)
        case Bars():
            return _bars(chart)
        case Gantt():
            return _gantt(chart)


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
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def floor(self) -> float:
        return self.height - BOTTOM

    @property
    def right(self) -> float:
        return self.width - RIGHT

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return LEFT + (value - self.x_low) / span * (self.right - LEFT)

    def y(self, value: float) -> float:
        span = (self.y_high - self.y_low) or 1.0
        return self.floor - (value - self.y_low) / span * (self.floor - TOP)

    def x_ticks(self, count: int = 5) -> list[float]:
        return [t for t in ticks(self.x_low, self.x_high, count) if self.x_low <= t <= self.x_high]


def _lines(chart: Lines) -> str:
    shown = [s for s in chart.series if len(s.x)]
    if not shown:
        return _empty(chart.title)
    values = np.concatenate([s.y for s in shown])
    goal = [] if chart.goal is None else [chart.goal]
    y_ticks = ticks(
        min([float(values.min()), *goal, *([0.0] if chart.from_zero else [])]),
        max([float(values.max()), *goal]),
    )
    x_low = min(0.0, min(float(s.x.min()) for s in shown))
    x_high = max(float(s.x.max()) for s in shown) or 1.0
    frame = _Frame(x_low, x_high, y_ticks[0], y_ticks[-1])
    body = [
        _y_axis(frame, y_ticks, chart.y_text),
        _x_axis(frame, frame.x_ticks(), chart.x_label, chart.x_text),
    ]
    for value in goal:
        y = frame.y(value)
        body.append(f'<line class="goal" x1="{LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    body += [_curve(frame, s, chart) for s in shown]
    return _svg(chart.title, "".join(body))


def _curve(frame: _Frame, s: Series, chart: Lines) -> str:
    points = [(float(x), float(y)) for x, y in zip(*thin(s.x, s.y), strict=True)]
    at = [(frame.x(x), frame.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    body = f'<polyline class="s{s.colour}" points="{path}"/>'
    if len(points) <= HOVER_POINTS:
        radius = 2.5 if len(points) <= 40 else 0
        for (x, y), (px, py) in zip(points, at, strict=True):
            where = f"{chart.x_text(round(x, 4))} {chart.x_label}"
            told = escape(f"{s.name}: {chart.y_text(y)} at {where}")
            dot = (
                f'<circle class="dot s{s.colour}" cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>'
                if radius
                else ""
            )
            body += (
                f'<g>{dot}<circle class="hit" cx="{px:.1f}" cy="{py:.1f}" r="7"/><title>{told}</title></g>'
            )
    return body


def _bars(chart: Bars) -> str:
    edges = chart.edges
    if len(edges) < 2 or not chart.layers:
        return _empty(chart.title)
    heights = np.sum([layer[1] for layer in chart.layers], axis=0)
    y_ticks = ticks(0.0, float(heights.max()) or 1.0)
    frame = _Frame(float(edges[0]), float(edges[-1]), 0.0, y_ticks[-1])
    body = [_y_axis(frame, y_ticks, chart.y_text), _x_axis(frame, frame.x_ticks(), chart.x_label)]
    floor = np.zeros(len(heights))
    for name, layer, colour in chart.layers:
        for i, value in enumerate(layer):
            if value <= 0:
                continue
            left, right = frame.x(float(edges[i])), frame.x(float(edges[i + 1]))
            gap = min(1.0, (right - left) * 0.15)
            top, bottom = frame.y(float(floor[i] + value)), frame.y(float(floor[i]))
            between = f"{tick_text(float(edges[i]))} to {tick_text(float(edges[i + 1]))}"
            told = escape(f"{name}: {chart.y_text(float(value))} ({between})")
            body.append(
                f'<rect class="s{colour}" x="{left + gap / 2:.2f}" y="{top:.2f}" '
                f'width="{right - left - gap:.2f}" height="{bottom - top:.2f}"><title>{told}</title></rect>'
            )
        floor = floor + layer
    return _svg(chart.title, "".join(body))


def _gantt(chart: Gantt) -> str:
    if not chart.bars:
        return _empty(chart.title)
    count = len(chart.lanes)
    height = TOP + BOTTOM + count * LANE
    low, high = min(bar.start for bar in chart.bars), max(bar.stop for bar in chart.bars)
    frame = _Frame(min(low, 0.0), high, count, 0.0, GANTT_WIDTH, height)
    body = [_x_axis(frame, frame.x_ticks(12), chart.x_label)]
    for mark in chart.marks:
        x = frame.x(mark)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.floor}"/>')
    for lane, name in enumerate(chart.lanes):
        y = frame.y(lane) + LANE / 2 + 4
        body.append(f'<text x="{LEFT - 7}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
    for bar in chart.bars:
        left, right, told = frame.x(bar.start), frame.x(bar.stop), escape(bar.told)
        body.append(
            f'<rect class="s{bar.colour}" x="{left:.2f}" y="{frame.y(bar.lane) + 2:.1f}" '
            f'width="{max(right - left, 0.5):.2f}" height="{LANE - 4}"><title>{told}</title></rect>'
        )
    return _svg(chart.title, "".join(body), GANTT_WIDTH, height)


def _y_axis(frame: _Frame, at: Sequence[float], text: Text) -> str:
    body = []
    for tick in at:
        y = frame.y(tick)
        body.append(f'<line class="grid" x1="{LEFT}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(text(tick))}</text>')
    return "".join(body)


def _x_axis(frame: _Frame, at: Sequence[float], label: str, x_text: Text = tick_text) -> str:
    floor = frame.floor
    body = [f'<line class="axis" x1="{LEFT}" x2="{frame.right}" y1="{floor}" y2="{floor}"/>']
    for tick in at:
        text = escape(x_text(tick))
        body.append(f'<text x="{frame.x(tick):.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>')
    middle = (LEFT + frame.right) / 2
    body.append(
        f'<text class="label" x="{middle}" y="{frame.height - 5}" text-anchor="middle">{escape(label)}</text>'
    )
    return "".join(body)


def _empty(title: str) -> str:
    return _svg(
        title, f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing was measured</text>'
    )


def _svg(title: str, body: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    name = escape(title, quote=True)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{body}</svg>'

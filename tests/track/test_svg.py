import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.track.charts import Bar, Bars, Gantt, Lines, Series, tick_text
from muster.track.svg import BOTTOM, GANTT_WIDTH, HEIGHT, LANE, LEFT, RIGHT, TOP, draw, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.1, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 12, [0, 2.5, 5, 7.5, 10, 12.5]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_by_hand(low, high, expected):
    assert ticks(low, high) == expected


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_span_and_are_few(low, width):
    found = ticks(low, low + width)
    slack = width * 1e-6 + 2 * math.ulp(abs(low) + width)  # no closer than numbers of this size can be
    assert found[0] <= low + slack and found[-1] >= low + width - slack
    assert 2 <= len(found) <= 8


def test_tick_texts():
    assert [tick_text(v) for v in (0, 0.05, 20, 1500, 2e6, 3e9, -1500)] == [
        *("0", "0.05", "20", "1.5k", "2M", "3G", "-1.5k")
    ]


def test_a_line_goes_from_corner_to_corner():
    chart = draw(Lines("A", (Series("a", np.array([0.0, 10.0]), np.array([0.0, 1.0])),), "rounds"))
    assert f'points="{LEFT}.0,{HEIGHT - BOTTOM}.0 388.0,{TOP}.0"' in chart


def test_bars_stack():
    layers = (("accepted", np.array([2.0, 4.0]), 0), ("lost", np.array([2.0, 0.0]), 1))
    chart = draw(Bars("Bars", np.array([0.5, 1.5, 2.5]), layers, "rounds"))
    assert chart.count("<rect") == 3  # a bar of no height is not drawn
    full = HEIGHT - TOP - BOTTOM
    assert chart.count(f'height="{full / 2:.2f}"') == 2 and chart.count(f'height="{full:.2f}"') == 1
    assert f'class="s1" x="52.50" y="{TOP:.2f}"' in chart  # lost lies on top of accepted


def test_lanes_of_a_timeline_are_one_below_the_other():
    bars = (Bar(0, 0.0, 5.0, 2, "first"), Bar(1, 5.0, 10.0, 3, "second"))
    chart = draw(Gantt("T", ("7", "8"), bars, "hours", [("a", 2), ("b", 3)], marks=(5.0,)))
    half = (GANTT_WIDTH - LEFT - RIGHT) / 2
    size = f'width="{half:.2f}" height="{LANE - 4}"'
    assert f'<rect class="s2" x="{LEFT:.2f}" y="{TOP + 2:.1f}" {size}><title>first</title>' in chart
    assert f'<rect class="s3" x="{LEFT + half:.2f}" y="{TOP + LANE + 2:.1f}" {size}><title>second' in chart
    assert f'<line class="grid" x1="{LEFT + half:.1f}"' in chart


def test_nothing_to_draw_is_said():
    assert "nothing was measured" in draw(Lines("A", (Series("a", np.zeros(0), np.zeros(0)),), "rounds"))
    assert "nothing was measured" in draw(Bars("A", np.zeros(0), (), "rounds"))
    assert "nothing was measured" in draw(Gantt("A", (), (), "hours", []))


def test_names_are_escaped():
    chart = draw(Lines('<"t">', (Series("<a>", np.zeros(1), np.ones(1)),), "<x>"))
    assert "<a>" not in chart and "<x>" not in chart and '<"t">' not in chart
    chart = draw(Gantt("<t>", ("<l>",), (Bar(0, 0.0, 1.0, 0, "<b>"),), "<x>", []))
    assert not any(f"<{name}>" in chart for name in "tlbx")

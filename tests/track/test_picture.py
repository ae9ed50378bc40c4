import numpy as np
import pytest

from muster.core.record import Record, Span
from muster.track.charts import Bar, Gantt, Section
from muster.track.history import History
from muster.track.picture import curve, picture, png
from muster.track.views import sections

pytest.importorskip("matplotlib")


def records(n, every=1):
    return [
        Record(
            v, 3600.0 * v, 1.0 * v, 1.0 / (v + 1), {"accuracy": v / n, "loss": 2.0} if v % every == 0 else {}
        )
        for v in range(n)
    ]


def test_the_curves_are_the_records():
    figure = curve(records(6, every=2))
    accuracy_rounds, accuracy_time, loss_rounds, _ = figure.axes
    (line,) = accuracy_rounds.lines
    assert line.get_xdata().tolist() == [0, 2, 4]
    assert line.get_ydata().tolist() == [0.0, 2 / 6, 4 / 6]
    assert accuracy_time.lines[0].get_xdata().tolist() == [0, 2, 4]  # hours
    assert [line.get_label() for line in loss_rounds.lines] == ["training loss", "test loss"]


@pytest.mark.parametrize("given", [[], [Record(0, 0.0, 0.0)], [Record(1, 1.0, 1.0, 2.0)], records(5000)])
def test_any_run_can_be_drawn(given):
    content = png(curve(given))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content == png(curve(given))


def test_long_curves_are_thinned():
    assert len(curve(records(50_000)).axes[0].lines[0].get_xdata()) <= 2000


def test_a_picture_has_every_chart_of_the_report_and_a_timeline_is_as_wide_as_a_row():
    spans = (Span(3, 0.0, 1.0, 2.0, 1.0, "accepted"), Span(4, 0.0, 1.0, 0.0, 0.0, "late"))
    given = [*records(3), Record(3, 12_000.0, 3.0, num_accepted=1, clients=(3,), num_online=2, spans=spans)]
    shown = sections(History(given), None)
    figure = picture(shown, "digits")
    titles = [chart.title for section in shown for chart in section.charts]
    assert sorted(axis.get_title(loc="left") for axis in figure.axes) == sorted(titles)
    figure.draw_without_rendering()
    widths = {axis.get_title(loc="left"): axis.get_position().width for axis in figure.axes}
    assert widths["Timeline"] > 2.5 * widths["Coverage"]
    assert png(figure)[:4] == b"\x89PNG"


def test_bars_of_a_timeline_are_where_they_should_be():
    chart = Gantt("T", ("7", "8"), (Bar(0, 1.0, 3.0, 0, ""), Bar(1, 2.0, 2.5, 0, "")), "s", [("work", 0)])
    (axis,) = picture([Section("S", (chart,))], "").axes
    boxes = [(bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axis.patches]
    assert np.allclose(boxes, [(1.0, 2.0, 0.0), (2.0, 0.5, 1.0)])
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first lane is on top

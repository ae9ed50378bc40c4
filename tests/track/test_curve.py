import pytest

from muster.core.record import Record
from muster.track.curve import curve, png

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

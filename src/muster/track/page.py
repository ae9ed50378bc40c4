"""The parts that HTML pages are put together from. Whatever comes from files is escaped."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Sequence

from .charts import Chart, Gantt, Section
from .svg import draw


def document(title: str, body: Sequence[str]) -> str:
    """A whole page that needs no network and no script; `body` is HTML."""
    style = files("muster.track").joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Muster</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(shown: Section) -> str:
    """A heading and its charts."""
    cards = "".join(card(chart) for chart in shown.charts)
    return f'<h2>{escape(shown.title)}</h2><div class="charts">{cards}</div>'


def card(chart: Chart) -> str:
    """A chart with its title, legend and note, as HTML."""
    legend = "".join(
        f'<span class="key"><i class="s{colour}"></i>{escape(name)}</span>' for name, colour in chart.keys
    )
    foot = f"<figcaption>{legend}{escape(chart.note)}</figcaption>" if legend or chart.note else ""
    wide = " wide" if isinstance(chart, Gantt) else ""
    return f'<figure class="card{wide}"><h3>{escape(chart.title)}</h3>{draw(chart)}{foot}</figure>'

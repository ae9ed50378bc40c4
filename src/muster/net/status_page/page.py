"""What the page shows, as HTML. All that comes from files is escaped."""

from __future__ import annotations

from html import escape

import numpy as np

from muster.net.watch import Snapshot
from muster.track.charts import Lines, Series
from muster.track.summary import headline
from muster.track.svg import draw
from muster.track.units import bytes_text, secs_text

DOCUMENT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Muster</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css"><link rel="stylesheet" href="status.css">
<script src="status.js" defer></script></head>
<body><main id="run" aria-live="polite" aria-busy="true"><p>Reading the run ...</p></main>
<p id="lost" role="status" hidden>No answer from the server; trying again.</p></body></html>
"""


def fragment(snapshot: Snapshot) -> str:
    """The inside of the page's `main`."""
    sections = [_head(snapshot), _tiles(snapshot), _clients(snapshot), _curves(snapshot), _errors(snapshot)]
    return "\n".join(section for section in sections if section)


def _head(snapshot: Snapshot) -> str:
    bad = snapshot.state in ("interrupted", "stalled", "failed")
    word = snapshot.state if bad or snapshot.state in ("waiting", "running") else "finished"
    why = f"<p>{escape(snapshot.why)}</p>" if snapshot.why else ""
    if snapshot.plan is not None:
        plan = snapshot.plan
        why += f"<p>{escape(plan.algorithm)} trains {escape(plan.model)} on {escape(plan.data)}.</p>"
    state = f'<div class="status{" bad" if bad else ""}" id="state">{escape(word)}</div>'
    return f'{state}<h1 data-name="{escape(snapshot.name, quote=True)}">{escape(snapshot.name)}</h1>{why}'


def _tiles(snapshot: Snapshot) -> str:
    tally, plan = snapshot.tally, snapshot.plan
    of = f"of {plan.rounds:,}" if plan and plan.rounds else ""
    tiles = [("round", f"{tally.version:,}", of)]
    first = headline(tally.metrics, plan.target_metric if plan else None)
    for name in dict.fromkeys([first, *tally.metrics]):
        if name is not None:
            best = tally.best.get(name)
            more = f"best {best['value']:.4g} in round {best['version']:,.0f}" if best else ""
            tiles.append((f"test {name}", f"{tally.metrics[name]:.4g}", more))
    if snapshot.loss is not None:
        tiles.append(("training loss", f"{snapshot.loss:.4g}", ""))
    ago = f"last version {secs_text(snapshot.age_secs)} ago" if snapshot.state == "running" else ""
    tiles.append(("time of the run", secs_text(tally.now_secs), ago))
    rest = ", ".join(f"{n:,} {kind}" for kind, n in tally.num_tasks.items() if n and kind != "accepted")
    tiles.append(("updates accepted", f"{tally.num_tasks['accepted']:,}", rest))
    traffic = f"{bytes_text(tally.down_bytes)} down, {bytes_text(tally.up_bytes)} up"
    tiles.append(("network", bytes_text(tally.down_bytes + tally.up_bytes), traffic))
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>'


def _tile(name: str, value: str, more: str) -> str:
    cells = (("name", name), ("value", value), ("more", more))
    return f'<div class="tile">{"".join(f"<div class={c!r}>{escape(text)}</div>" for c, text in cells)}</div>'


def _clients(snapshot: Snapshot) -> str:
    total = max(sum(snapshot.clients.values()), 1)
    rows = "".join(
        f"<tr><th scope=row>{escape(state)}</th><td>{num:,}</td>"
        f"<td><meter min=0 max={total} value={num}>{num / total:.0%}</meter></td></tr>"
        for state, num in snapshot.clients.items()
    )
    title = "Clients" if snapshot.live else "Tasks of the newest round"
    return f'<h2>{title}</h2><div class="card"><table id="clients">{rows}</table></div>'


def _curves(snapshot: Snapshot) -> str:
    goal = snapshot.plan.target if snapshot.plan else None
    cards = []
    for name, points in sorted(snapshot.curves.items(), key=lambda item: (item[0] == "", item[0])):
        x, y = (np.array(column, np.float64) for column in zip(*points, strict=True))
        keep = np.isfinite(y)
        title = f"test {name}" if name else "training loss"
        at = goal[1] if goal and goal[0] == name else None
        series = (Series(title, x[keep], y[keep], 0 if name else 1),)
        chart = draw(Lines(title, series, "rounds", goal=at))
        cards.append(f'<figure class="card"><h3>{escape(title)}</h3>{chart}</figure>')
    return f'<h2>Learning</h2><div class="charts">{"".join(cards)}</div>' if cards else ""


def _errors(snapshot: Snapshot) -> str:
    if not snapshot.errors:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in snapshot.errors)
    return f'<h2>Last notices and errors</h2><div class="card"><ol id="errors">{lines}</ol></div>'

"""report.html: a run on one page that needs no network, no script and no library."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from .folder import JOB, RunFolder, write_whole
from .history import Column, History, in_groups
from .sink import RunPlan
from .summary import Summary, headline
from .svg import Series, bar_chart, line_chart
from .units import bytes_text, secs_text, share_text, short_count, time_unit, value_text

MOST_BARS = 120
"""More rounds than this are drawn as means over groups of rounds."""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes a run's report and returns where it is; the same folder gives the same bytes.

    Args:
        folder: A run folder, of a run that is finished or not.
        out: The file to write; `folder/report.html` unless given.

    Raises:
        RunFolderError: There is no run in `folder`, a file in it is damaged, or the disk is full.
    """
    run = RunFolder.open(folder)
    notes: list[str] = []
    plan, summary = run.read_plan(), run.read_summary()
    history = History(run.read(notes.append), plan.target if plan else None)
    job = run.job() if (run.path / JOB).is_file() else ""
    path = Path(out) if out is not None else run.path / "report.html"
    write_whole(path, page(history, plan, summary, job, run.path.resolve().name, notes).encode())
    return path


def page(
    history: History,
    plan: RunPlan | None,
    summary: Summary | None,
    job: str,
    folder_name: str,
    notes: list[str],
) -> str:
    """The page's HTML. Whatever comes from files is escaped."""
    name = plan.name if plan else folder_name
    sections = [_section("Learning", _learning(history, plan))]
    if history.trained.any():
        sections += [
            _section("Rounds", _rounds(history)),
            _section("Cost", _cost(history)),
            _section("Participation", _participation(history, plan)),
        ]
    if job:
        sections.append(
            f'<h2>Settings</h2><details class="card" open><summary>job.yml</summary>'
            f"<pre>{escape(job)}</pre></details>"
        )
    sha = f"model sha256 {escape(summary.model_sha256)} · " if summary and summary.model_sha256 else ""
    style = files("muster.track").joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · Muster</title><style>{style}</style></head>\n<body><main>\n"
        f"{_head(name, plan, summary, history, notes)}\n{_tiles(history, plan, summary)}\n"
        + "\n".join(sections)
        + f"\n<footer>{sha}{escape(folder_name)} · made by Muster from {len(history):,} records</footer>"
        "\n</main></body></html>\n"
    )


def _head(
    name: str, plan: RunPlan | None, summary: Summary | None, history: History, notes: list[str]
) -> str:
    if summary is None:
        status, good, why = "unfinished", False, "The run has not ended yet, or was killed."
    else:
        good = summary.status not in ("interrupted", "stalled")
        status, why = ("finished" if good else summary.status), summary.why
    lines = [
        f'<div class="status{"" if good else " bad"}">{escape(status)}</div>',
        f"<h1>{escape(name)}</h1>",
    ]
    if plan is not None:
        told = f"{plan.algorithm} trains {plan.model} ({short_count(plan.num_parameters)} parameters, "
        told += f"{bytes_text(plan.model_bytes)}) on {plan.data} with {plan.num_clients:,} clients."
        lines.append(f"<p>{escape(told)}</p>")
    if why:
        lines.append(f"<p>{escape(_sentence(why))}</p>")
    if plan is not None and plan.clock_only:
        notes = [
            "Clock only: nothing was trained; times, bytes and clients are as in a training run.",
            *notes,
        ]
    if history.surrogate or (plan is not None and plan.surrogate):
        notes = ["Surrogate: losses come from a curve, not from training.", *notes]
    return "\n".join([*lines, *(f'<p class="note">{escape(note)}</p>' for note in notes)])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _tiles(history: History, plan: RunPlan | None, summary: Summary | None) -> str:
    tally = history.tally
    tiles: list[tuple[str, str, str]] = []
    for metric in list(dict.fromkeys([headline(tally.metrics), *tally.metrics]))[:3]:
        if metric is not None:
            best = tally.best.get(metric)
            more = f"best {value_text(best['value'])} in round {best['version']:,.0f}" if best else ""
            label = "test loss" if metric == "loss" else metric
            tiles.append((label, value_text(tally.metrics[metric]), more))
    virtual = summary.virtual_secs if summary else tally.now_secs
    wall = summary.wall_secs if summary else tally.wall_secs
    tiles.append(("rounds", f"{tally.version:,}", f"of {plan.rounds:,}" if plan and plan.rounds else ""))
    per_round = f"{secs_text(virtual / tally.version)} a round" if tally.version else ""
    tiles.append(("virtual time", secs_text(virtual), per_round))
    tiles.append(
        ("wall time", secs_text(wall), f"{virtual / wall:,.0f} x faster" if virtual > wall > 0 else "")
    )
    if plan is not None and plan.target is not None:
        reached = secs_text(tally.reached[0]) if tally.reached else "-"
        more = "virtual time to target" if tally.reached else "not reached"
        tiles.append((f"{plan.target[0]} {plan.target[1]:g}", reached, more))
    tasks = tally.num_tasks
    rest = ", ".join(f"{n:,} {kind}" for kind, n in tasks.items() if n and kind != "accepted")
    tiles.append(("updates accepted", f"{tasks['accepted']:,}", rest or "none late, lost or refused"))
    traffic = f"{bytes_text(tally.down_bytes)} down, {bytes_text(tally.up_bytes)} up"
    tiles.append(("network", bytes_text(tally.down_bytes + tally.up_bytes), traffic))
    used, wasted = tally.device_secs["used"], tally.device_secs["wasted"]
    tiles.append(
        (
            "device time",
            secs_text(used + wasted),
            f"{share_text(wasted, used + wasted)} wasted" if used + wasted else "",
        )
    )
    if summary is not None:
        tiles.append(("peak memory", bytes_text(summary.peak_rss_bytes), f"seed {summary.seed}"))
    cells = (
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="more">{escape(more)}</div></div>'
        for name, value, more in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _section(title: str, cards: list[str]) -> str:
    return f'<h2>{escape(title)}</h2><div class="charts">{"".join(cards)}</div>'


def _card(title: str, chart: str, keys: list[tuple[str, int]] | None = None, caption: str = "") -> str:
    legend = "".join(
        f'<span class="key"><i class="s{colour}"></i>{escape(name)}</span>' for name, colour in keys or []
    )
    foot = f"<figcaption>{legend}{escape(caption)}</figcaption>" if legend or caption else ""
    return f'<figure class="card"><h3>{escape(title)}</h3>{chart}{foot}</figure>'


def _time_axis(column: Column, word: str) -> tuple[float, str]:
    unit, unit_name = time_unit(float(column[-1]) if len(column) else 0.0)
    return unit, f"{word} time, {unit_name}"


def _learning(history: History, plan: RunPlan | None) -> list[str]:
    axes = [("version", 1.0, "rounds")]
    for column, word in (("now_secs", "virtual"), ("wall_secs", "wall")):
        axes.append((column, *_time_axis(history.columns[column], word)))
    target = plan.target if plan else None
    first = headline(history.metrics, target[0] if target else None)
    cards = []
    for metric in list(dict.fromkeys([first, *history.metrics, "loss"])):
        if metric is None:
            continue
        wanted = [(metric, f"test {metric}", 0)]
        if metric == "loss":
            wanted.insert(0, ("", "training loss", 1))
        goal = target[1] if target and target[0] == metric else None
        for column, unit, label in axes:
            series = []
            for source, name, colour in wanted:
                x, y = history.curve(source, column)
                series.append(Series(name, x / unit, y, colour))
            keys = [(s.name, s.colour) for s in series if len(s.x)] if len(wanted) > 1 else []
            title = f"{metric[:1].upper()}{metric[1:]} against {label.split(',')[0]}"
            cards.append(_card(title, line_chart(title, series, label, goal=goal), keys))
    return cards


def _rounds(history: History) -> list[str]:
    made = history.trained
    versions, secs = history.durations()
    kinds = [("accepted", 0), ("late", 2), ("lost", 1), ("refused", 3), ("discarded", 4)]
    columns = [(name, history.columns[f"num_{name}"][made], colour) for name, colour in kinds]
    shown = [c for c in columns if c[1].any()]
    size, _ = in_groups(versions, MOST_BARS)
    layers = [(name, in_groups(values, MOST_BARS)[1], colour) for name, values, colour in shown]
    edges = np.append(versions[::size] - 0.5, versions[-1] + 0.5) if len(versions) else np.zeros(0)
    mean = f"Bars are means over {size} rounds." if size > 1 else ""
    clients = bar_chart("Clients per round", edges, layers, "rounds")
    longest = float(secs.max()) if len(secs) else 0.0
    unit, unit_name = time_unit(longest)
    over = line_chart("Round duration", [Series(unit_name, versions, secs / unit)], "rounds", from_zero=True)
    bins = np.linspace(0.0, longest / unit, 31) if longest > 0 else np.zeros(0)
    counts = np.histogram(secs / unit, bins)[0].astype(np.float64) if len(bins) else np.zeros(0)
    how_long = bar_chart("Round durations", bins, [("rounds", counts, 0)], f"virtual time, {unit_name}")
    median = f"Median {secs_text(float(np.median(secs)))}, longest {secs_text(longest)}." if len(secs) else ""
    return [
        _card("Clients per round", clients, [(name, colour) for name, _, colour in shown], mean),
        _card("How long rounds took", how_long, None, f"Number of rounds. {median}".strip()),
        _card("Duration of each round", over, None, f"Virtual time, {unit_name}."),
    ]


def _cost(history: History) -> list[str]:
    columns, rounds = history.columns, history.columns["version"]
    unit, unit_name = time_unit(sum(history.tally.device_secs.values()))

    def so_far(name: str, column: str, colour: int, scale: float = 1.0) -> Series:
        return Series(name, rounds, np.cumsum(columns[column]) / scale, colour)

    traffic = [so_far("down", "down_bytes", 0), so_far("up", "up_bytes", 1)]
    device = [so_far("used", "device_secs_used", 0, unit), so_far("wasted", "device_secs_wasted", 1, unit)]
    made = history.trained
    size, used = in_groups(columns["device_secs_used"][made], MOST_BARS)
    wasted = in_groups(columns["device_secs_wasted"][made], MOST_BARS)[1]
    spent = np.maximum(used + wasted, 1e-12)
    share = Series("wasted, %", rounds[made][::size], 100 * wasted / spent, 1)
    mean = f" Means over {size} rounds." if size > 1 else ""
    return [
        _card(
            "Network traffic so far",
            line_chart("Network traffic", traffic, "rounds", y_text=_bytes_tick, from_zero=True),
            [(s.name, s.colour) for s in traffic],
        ),
        _card(
            "Device time so far",
            line_chart("Device time", device, "rounds", from_zero=True),
            [(s.name, s.colour) for s in device],
            f"In {unit_name}. Wasted: on tasks that did not count.",
        ),
        _card(
            "Device time wasted",
            line_chart("Device time wasted", [share], "rounds", from_zero=True),
            None,
            f"Percent of the round's device time.{mean}",
        ),
    ]


def _bytes_tick(num_bytes: float) -> str:
    return bytes_text(num_bytes).replace(".0 ", " ")


def _participation(history: History, plan: RunPlan | None) -> list[str]:
    times = history.participation
    absent = max(plan.num_clients - len(times), 0) if plan else 0
    most = int(times[-1]) if len(times) else 0
    caption = f"{len(times):,} clients took part"
    if plan is not None:
        caption = (
            f"{len(times):,} of {plan.num_clients:,} clients took part "
            f"({share_text(len(times), plan.num_clients)})"
        )
    if not most:
        chart = bar_chart("Participation", np.zeros(0), [], "")
        return [_card("How often clients took part", chart, None, f"{caption}.")]
    width = max(-(-(most + 1) // 30), 1)
    edges = np.arange(0, most + width + 1, width, dtype=np.float64) - 0.5
    counts = np.histogram(times, edges)[0].astype(np.float64)
    counts[0] += absent
    caption += f"; median {np.median(times):.0f} times, at most {most:,}."
    chart = bar_chart("Participation", edges, [("clients", counts, 0)], "times a client's update was folded")
    shares = np.cumsum(times[::-1]) / times.sum()
    ranks = np.arange(1, len(times) + 1) / (len(times) + absent) * 100
    curve = line_chart(
        "Share of updates",
        [Series("share", np.append(0.0, ranks), np.append(0.0, shares * 100))],
        "most active clients, %",
        from_zero=True,
    )
    coverage = line_chart(
        "Coverage", [Series("clients", history.columns["version"], history.seen)], "rounds", from_zero=True
    )
    return [
        _card("How often clients took part", chart, None, f"Number of clients. {caption}"),
        _card(
            "Who gave the updates", curve, None, "Percent of all updates; a straight line if all gave alike."
        ),
        _card("Coverage", coverage, None, "Different clients whose updates were folded so far."),
    ]

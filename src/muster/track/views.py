"""What a run's records show: its charts as data, for the report, its picture and the comparison of runs."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from muster.core.record import Span

from .charts import Bar, Bars, Chart, Gantt, Lines, Section, Series
from .history import Column, History, gini, in_groups
from .sink import RunPlan
from .summary import headline
from .units import bytes_text, secs_text, share_text, time_unit, value_text

MOST_BARS = 120
"""More rounds than this are drawn as means over groups of rounds."""
LANES = 40
"""Clients of a timeline; of more, so many from the fastest to the slowest."""
TIMELINE_SPANS = 500
"""Tasks of a timeline: it ends where it would have more."""

WASTE = {"dropped": 1, "late": 2, "stale": 3, "abandoned": 4, "stopped": 5, "offline": 6}
"""Colours of reasons why tasks did not count; 7 for all others."""

AXES = (("version", "rounds"), ("now_secs", "virtual time"), ("wall_secs", "wall time"))
"""Columns that curves are drawn against, and what they are called."""


def sections(history: History, plan: RunPlan | None) -> list[Section]:
    """All charts of a run; of the untrained model alone, only what it scores."""
    target = plan.target if plan else None
    first = headline(history.metrics, target[0] if target else None)
    charts: list[Chart] = [*learning(history, target)]
    if first is not None and history.trained.any():
        charts.append(time_to(history, first))
    found = [Section("Learning", tuple(charts))]
    if history.trained.any():
        found += [
            Section("Rounds", tuple(_rounds(history))),
            Section("Devices", tuple(_devices(history, plan))),
            Section("Cost", tuple(_cost(history))),
            Section("Participation", tuple(_participation(history, plan))),
        ]
    return [section for section in found if section.charts]


def learning(
    history: History,
    target: tuple[str, float] | None,
    only: Sequence[str] | None = None,
    axes: Sequence[tuple[str, str]] = AXES,
) -> list[Lines]:
    """Each metric, and the loss, against rounds, virtual and wall time.

    Args:
        history: The records.
        target: Metric and value to reach, drawn as a dashed line.
        only: The metrics; None: all, the main one first.
        axes: As AXES.
    """
    first = headline(history.metrics, target[0] if target else None)
    names = [first, *history.metrics, "loss"] if only is None else only
    charts = []
    for metric in dict.fromkeys(name for name in names if name is not None):
        wanted = [(metric, f"test {metric}", 0)]
        if metric == "loss":
            wanted.insert(0, ("", "training loss", 1))  # the test curve is drawn over it
        goal = target[1] if target and target[0] == metric else None
        for column, word in axes:
            unit, label = _scale(history.columns[column], word)
            curves = ((name, colour, *history.curve(source, column)) for source, name, colour in wanted)
            series = tuple(Series(name, x / unit, y, colour) for name, colour, x, y in curves)
            charts.append(Lines(f"{_capital(metric)} against {word}", series, f"{word}{label}", goal=goal))
    return charts


def _scale(column: Column, word: str) -> tuple[float, str]:
    """What to divide a column by, and how that is said after its name; rounds are as they are."""
    if word == "rounds":
        return 1.0, ""
    unit, name = time_unit(float(column[-1]) if len(column) else 0.0)
    return unit, f", {name}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def time_to(history: History, metric: str) -> Lines:
    """When a metric first reached each level."""
    rows, levels = history.levels(metric)
    secs = history.columns["now_secs"][rows]
    unit, name = time_unit(float(secs[-1]) if len(secs) else 0.0)
    note = f"Virtual time, {name}, until the test set's {metric} was first so good."
    series = (Series(name, levels, secs / unit),)
    return Lines(f"Time to each {metric}", series, metric, note, from_zero=True)


def _rounds(history: History) -> list[Chart]:
    made = history.trained
    versions, secs = history.durations()
    kinds = [("accepted", 0), ("late", 2), ("lost", 1), ("refused", 3), ("discarded", 4)]
    columns = [(name, history.columns[f"num_{name}"][made], colour) for name, colour in kinds]
    longest = float(secs.max())
    unit, unit_name = time_unit(longest)
    bins = np.linspace(0.0, longest / unit, 31) if longest > 0 else np.zeros(0)
    counts = np.histogram(secs / unit, bins)[0].astype(np.float64) if len(bins) else np.zeros(0)
    median = f"Median {secs_text(float(np.median(secs)))}, longest {secs_text(longest)}."
    each = (Series(unit_name, versions, secs / unit),)
    return [
        _by_round("Clients per round", versions, columns),
        Bars(
            "How long rounds took",
            bins,
            (("rounds", counts, 0),),
            f"virtual time, {unit_name}",
            f"Number of rounds. {median}",
        ),
        Lines("Duration of each round", each, "rounds", f"Virtual time, {unit_name}.", from_zero=True),
    ]


def _by_round(title: str, versions: Column, columns: list[tuple[str, Column, int]], note: str = "") -> Bars:
    """Stacked bars of what each round had, as means over groups of rounds where there are many."""
    size, _ = in_groups(versions, MOST_BARS)
    layers = tuple(
        (name, in_groups(values, MOST_BARS)[1], colour) for name, values, colour in columns if values.any()
    )
    edges = np.append(versions[::size] - 0.5, versions[-1] + 0.5)
    mean = f"Bars are means over {size} rounds." if size > 1 else ""
    return Bars(title, edges, layers, "rounds", f"{note} {mean}".strip())


def _devices(history: History, plan: RunPlan | None) -> list[Chart]:
    charts: list[Chart] = []
    now, online = history.columns["now_secs"], history.columns["num_online"]
    known = np.isfinite(online)
    if known.any():
        unit, name = time_unit(float(now[known][-1]))
        of = f"Of {plan.num_clients:,}; " if plan else ""
        low, high = int(online[known].min()), int(online[known].max())
        told = f"{low:,} to {high:,}" if low < high else f"always {low:,}"
        note = f"{of}{told}, as asked at the end of each round."
        series = (Series("online", now[known] / unit, online[known]),)
        charts.append(Lines("Clients online", series, f"virtual time, {name}", note, from_zero=True))
    return [*charts, timeline(history)] if history.spans else charts


def timeline(history: History) -> Gantt:
    """What clients did when: for each a lane, with the legs of its tasks."""
    by_client: dict[int, list[Span]] = {}
    for span in history.spans:
        by_client.setdefault(span.client, []).append(span)

    def mean_secs(client: int) -> float:
        spans = by_client[client]
        whole = [s for s in spans if s.outcome == "accepted"] or spans
        return sum(s.end_secs - s.sent_secs for s in whole) / len(whole)

    ranked = sorted(by_client, key=lambda client: (mean_secs(client), client))
    chosen = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, LANES).astype(int))]
    spans = sorted((s for client in chosen for s in by_client[client]), key=lambda s: s.sent_secs)
    shown = spans[:TIMELINE_SPANS]
    end = max(s.end_secs for s in shown)
    unit, name = time_unit(end)
    lane = {client: number for number, client in enumerate(chosen)}
    bars = tuple(bar for span in shown for bar in _legs(span, lane[span.client], unit))
    now = history.columns["now_secs"][history.trained]
    marks = tuple((now[now <= end] / unit).tolist()) if np.count_nonzero(now <= end) <= 150 else ()
    note = f"{len(chosen):,} of {len(ranked):,} clients whose tasks are recorded, the fastest on top"
    note += f"; the first {secs_text(end)}." if len(shown) < len(spans) else "."
    note += " Thin lines: rounds." if marks else ""
    keys = [("loading", 2), ("computing", 0), ("sending", 3), ("did not count", 1)]
    return Gantt("Timeline", tuple(map(str, chosen)), bars, f"virtual time, {name}", keys, marks, note)


def _legs(span: Span, lane: int, unit: float) -> list[Bar]:
    """The bars of one task: its three legs, or one if it did not count."""
    whole = secs_text(span.end_secs - span.sent_secs)
    told = f"client {span.client}, from {secs_text(span.sent_secs)} for {whole}: {span.outcome}"
    if span.outcome != "accepted":
        return [Bar(lane, span.sent_secs / unit, span.end_secs / unit, 1, told)]
    bars, at = [], span.sent_secs
    legs = (("loading", span.down_secs, 2), ("computing", span.compute_secs, 0), ("sending", span.up_secs, 3))
    for word, secs, colour in legs:
        if secs > 0:
            bars.append(Bar(lane, at / unit, (at + secs) / unit, colour, f"{told}; {word} {secs_text(secs)}"))
        at += secs
    return bars


def _cost(history: History) -> list[Chart]:
    columns, rounds = history.columns, history.columns["version"]
    unit, unit_name = time_unit(sum(history.tally.device_secs.values()))

    def so_far(name: str, column: str, colour: int, scale: float = 1.0) -> Series:
        return Series(name, rounds, np.cumsum(columns[column]) / scale, colour)

    traffic = (so_far("down", "down_bytes", 0), so_far("up", "up_bytes", 1))
    device = (so_far("used", "device_secs_used", 0, unit), so_far("wasted", "device_secs_wasted", 1, unit))
    made, wasted = history.trained, history.wasted()
    small, small_name = time_unit(float(columns["device_secs_wasted"].max()))
    reasons = [(reason, secs[made] / small, WASTE.get(reason, 7)) for reason, secs in wasted.items()]
    total = sum(history.tally.device_secs.values())
    told = ", ".join(f"{reason} {share_text(float(secs.sum()), total)}" for reason, secs in wasted.items())
    note = f"In {small_name} a round. Of all device time: {told}." if told else "Nothing was wasted."
    return [
        Lines("Network traffic so far", traffic, "rounds", y_text=bytes_tick, from_zero=True),
        Lines(
            "Device time so far",
            device,
            "rounds",
            f"In {unit_name}. Wasted: on tasks that did not count.",
            from_zero=True,
        ),
        _by_round("Device time wasted, by reason", rounds[made], reasons, note),
    ]


def bytes_tick(num_bytes: float) -> str:
    """Bytes on an axis: 5 MB, 2.5 MB."""
    return bytes_text(num_bytes).replace(".0 ", " ")


def _participation(history: History, plan: RunPlan | None) -> list[Chart]:
    times = history.participation
    count = max(plan.num_clients if plan else 0, len(times))
    most = int(times[-1]) if len(times) else 0
    told = f"{len(times):,} clients took part"
    if plan is not None:
        share = share_text(len(times), plan.num_clients)
        told = f"{len(times):,} of {plan.num_clients:,} clients took part ({share})"
    title, x_label = "How often clients took part", "times a client's update was folded"
    if not most:
        return [Bars(title, np.zeros(0), (), x_label, f"{told}.")]
    width = max(-(-(most + 1) // 30), 1)
    edges = np.arange(0, most + width + 1, width, dtype=np.float64) - 0.5
    counts = np.histogram(times, edges)[0].astype(np.float64)
    counts[0] += count - len(times)
    told += f"; median {np.median(times):.0f} times, at most {most:,}."
    seen = (Series("clients", history.columns["version"], history.seen),)
    fair = (
        f"Percent of all updates; a straight line if all gave alike. Gini {value_text(gini(times, count))}."
    )
    return [
        Bars(title, edges, (("clients", counts, 0),), x_label, f"Number of clients. {told}"),
        Lines(
            "Who gave the updates", (lorenz(history, count),), "most active clients, %", fair, from_zero=True
        ),
        Lines(
            "Coverage", seen, "rounds", "Different clients whose updates were folded so far.", from_zero=True
        ),
    ]


def lorenz(history: History, num_clients: int, name: str = "share", colour: int = 0) -> Series:
    """Which percentage of updates the most active clients gave."""
    times = history.participation
    shares = np.cumsum(times[::-1]) / max(times.sum(), 1)
    ranks = np.arange(1, len(times) + 1) / max(num_clients, len(times), 1) * 100
    return Series(name, np.append(0.0, ranks), np.append(0.0, shares * 100), colour)

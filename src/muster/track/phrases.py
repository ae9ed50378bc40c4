"""What a run says in plain lines: the same words on the console and in log.txt."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Callable

from muster.core.record import Record

from .sink import RunPlan
from .summary import Summary, headline
from .units import bytes_text, secs_text, share_text, short_count, value_text

EVALUATED_GAP_SECS = 0.2
"""Least wall time between two plain lines of evaluated versions."""
OTHER_GAP_SECS = 10.0
"""Least wall time before a version that was not evaluated gets a line."""


class Pacer:
    """Says which versions get a line, so that fast runs do not flood and slow ones do not fall silent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def lets(self, record: Record) -> bool:
        """Whether this version gets a line now; the first always does."""
        now = self._clock()
        gap = EVALUATED_GAP_SECS if record.metrics else OTHER_GAP_SECS
        if self._last is not None and now - self._last < gap:
            return False
        self._last = now
        return True


def stop_text(plan: RunPlan) -> str:
    """When the run ends: "100 rounds or accuracy 0.9"."""
    rules = []
    if plan.rounds is not None:
        rules.append(f"{plan.rounds:,} round{'s' if plan.rounds != 1 else ''}")
    if plan.virtual_secs is not None:
        rules.append(f"{secs_text(plan.virtual_secs)} of {'' if plan.deployed else 'virtual '}time")
    if plan.wall_secs is not None:
        rules.append(f"{secs_text(plan.wall_secs)} of wall time")
    if plan.target is not None:
        rules.append(f"{plan.target[0]} {plan.target[1]:g}")
    return " or ".join(rules) or "stopped by you"


def plan_lines(plan: RunPlan) -> list[str]:
    """What will happen in one line, then what was chosen for the user."""
    model = f"{plan.model} ({short_count(plan.num_parameters)} parameters, {bytes_text(plan.model_bytes)})"
    lines = [
        f"{plan.name}: {plan.algorithm} trains {model} on {plan.data} with {plan.num_clients:,} clients, "
        f"until {stop_text(plan)}"
    ]
    if plan.resumed_from is not None:
        lines.append(f"resumed: goes on after round {plan.resumed_from:,}")
    if plan.clock_only:
        lines.append("clock only: nothing is trained, only time, bytes and who takes part are computed")
    if plan.surrogate:
        lines.append("surrogate: selection reads losses drawn from a curve, not from training")
    return [*lines, *plan.choices]


def eta_secs(plan: RunPlan, record: Record) -> float | None:
    """Wall seconds until the first stop rule at the run's mean pace; None while there is no telling."""
    left = []
    if plan.wall_secs is not None:
        left.append(plan.wall_secs - record.wall_secs)
    if plan.rounds is not None and record.version > 0:
        left.append((plan.rounds - record.version) * record.wall_secs / record.version)
    if plan.virtual_secs is not None and record.now_secs > 0:
        left.append((plan.virtual_secs - record.now_secs) * record.wall_secs / record.now_secs)
    return max(min(left), 0.0) if left else None


def fraction_done(plan: RunPlan, record: Record) -> float | None:
    """How far the nearest stop rule is used up, 0 to 1; None if only a target ends the run."""
    parts = []
    if plan.rounds:
        parts.append(record.version / plan.rounds)
    if plan.virtual_secs:
        parts.append(record.now_secs / plan.virtual_secs)
    if plan.wall_secs:
        parts.append(record.wall_secs / plan.wall_secs)
    return min(max(parts), 1.0) if parts else None


def round_text(plan: RunPlan, record: Record) -> str:
    """Its number, and of how many where that is known: round 7/100."""
    of = f"/{plan.rounds:,}" if plan.rounds is not None else ""
    return f"round {record.version:,}{of}"


def record_line(plan: RunPlan, record: Record) -> str:
    """One version in one line; loss is the training loss, metrics are of the test set."""
    wall = f"wall {secs_text(record.wall_secs)}"
    times = wall if plan.deployed else f"virtual {secs_text(record.now_secs)}  {wall}"
    parts = [round_text(plan, record), times]
    eta = eta_secs(plan, record)
    if eta is not None:
        parts.append(f"ETA {secs_text(eta)}")
    if record.num_sent or record.num_accepted:
        clients = f"clients {record.num_accepted} accepted {record.num_late} late {record.num_lost} lost"
        parts.append(clients + (f" {record.num_refused} refused" if record.num_refused else ""))
    if record.loss is not None:
        parts.append(f"loss {value_text(record.loss)}")
    metrics = _said(record.metrics, plan.target_metric)
    parts += [f"{_test_name(name)} {value_text(value)}" for name, value in metrics.items()]
    if record.up_bytes or record.down_bytes:
        parts.append(f"up {bytes_text(record.up_bytes)} down {bytes_text(record.down_bytes)}")
    return "  ".join(parts)


def _said(metrics: Mapping[str, float], target: str | None) -> dict[str, float]:
    """Those that a line has room for: of what is told of clients one by one, mean and worst tenth of one."""
    one = headline(metrics, target)
    few = {f"clients_mean_{one}", f"clients_worst10_{one}"}
    return {name: value for name, value in metrics.items() if not name.startswith("clients_") or name in few}


def _test_name(metric: str) -> str:
    return "test loss" if metric == "loss" else metric


def outcome_lines(plan: RunPlan, summary: Summary) -> list[str]:
    """How the run ended, without the next commands."""
    verb = {"interrupted": "interrupted", "stalled": "stalled"}.get(summary.status, "done")
    lines = [f"{verb}: {summary.why or 'stopped by ' + summary.status}"]
    name = headline(summary.metrics, plan.target_metric)
    if name is not None:
        metrics = _said(summary.metrics, plan.target_metric)
        others = [f"{_test_name(k)} {value_text(v)}" for k, v in metrics.items() if k != name]
        best = summary.best.get(name)
        told = f" (best {value_text(best['value'])}, round {best['version']:,.0f})" if best else ""
        lines.append(", ".join([f"{_test_name(name)} {value_text(summary.metrics[name])}{told}", *others]))
    virtual = "" if plan.deployed else f"{secs_text(summary.virtual_secs)} of virtual time, "
    time_line = f"{summary.rounds:,} rounds in {virtual}{secs_text(summary.wall_secs)} of wall time"
    if plan.target is not None:
        met = summary.time_to_target_secs
        goal = f"{plan.target[0]} {plan.target[1]:g}"
        time_line += f"; {goal} " + ("not reached" if met is None else f"reached after {secs_text(met)}")
    lines.append(time_line)
    tasks, device = summary.num_tasks, summary.device_secs
    counts = ", ".join(f"{count:,} {kind}" for kind, count in tasks.items() if count or kind == "accepted")
    lines.append(f"tasks: {counts}")
    wasted = share_text(device["wasted"], device["used"] + device["wasted"])
    lines.append(
        f"network: {bytes_text(summary.down_bytes)} down, {bytes_text(summary.up_bytes)} up; "
        f"device time: {secs_text(device['used'] + device['wasted'])}, {wasted} of it wasted"
    )
    return lines


def next_commands(plan: RunPlan, summary: Summary) -> list[str]:
    """Exactly three commands worth trying next."""
    folder = shlex.quote(str(plan.out)) if plan.out else "DIR"
    conf = shlex.quote(plan.conf) if plan.conf else (f"{folder}/job.yml" if plan.out else "CONF.yml")
    report = f"muster report {folder}"
    other = "fedavg" if plan.algorithm.startswith("fedyogi") else "fedyogi"
    if summary.status == "interrupted":
        return [plan.deployed or f"muster resume {folder}", report, f"muster check {conf}"]
    if summary.status == "stalled":
        return [f"muster check {conf}", report, f"muster run {conf} --clock-only"]
    if plan.clock_only:
        return [report, f"muster run {conf}", f"muster run {conf} algorithm={other} --clock-only"]
    if plan.deployed:
        return [report, f"muster replay {folder}", f"muster run {conf}"]
    return [report, f"muster run {conf} algorithm={other}", f"muster run {conf} seed={summary.seed + 1}"]

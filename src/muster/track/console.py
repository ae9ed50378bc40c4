"""What a user watches: a live table on a terminal, plain lines everywhere else."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, TextIO

from muster.core.record import Record

from .lines import print_line
from .phrases import (
    Pacer,
    eta_secs,
    fraction_done,
    next_commands,
    outcome_lines,
    plan_lines,
    record_line,
    round_text,
    stop_text,
)
from .sink import RunPlan
from .summary import Summary, Tally, headline
from .units import bytes_text, secs_text, value_text

if TYPE_CHECKING:
    from rich.console import Console

Clock = Callable[[], float]

ROWS = 12
"""Rows of the live table: with its head and foot it fits a terminal of 24 lines."""
REFRESH_SECS = 0.1
ROW_GAP_SECS = 1.0
"""A version gets a row of its own when it was evaluated, or this long after the row before."""


def make_console(stream: TextIO | None = None, json: bool = False) -> Live | Lines:
    """The sink that suits `stream` (standard output unless given): Live on a terminal, else Lines.

    With `json` everything goes to standard error, so that standard output holds the summary alone.
    """
    out = sys.stderr if json else (stream if stream is not None else sys.stdout)
    if out.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        return Live(out)
    return Lines(out)


class Lines:
    """Plain lines, no escape codes: for logs, pipes and CI."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._pacer = Pacer(clock)
        self._plan: RunPlan | None = None
        self._unsaid: Record | None = None

    def begin(self, plan: RunPlan) -> None:
        """What will happen, and what was chosen."""
        self._plan = plan
        for line in plan_lines(plan):
            self.say(line)

    def tell(self, record: Record) -> None:
        """A line, unless the last one was a moment ago."""
        assert self._plan is not None
        self._unsaid = record
        if self._pacer.lets(record):
            self._say_record()

    def _say_record(self) -> None:
        if self._plan is not None and self._unsaid is not None:
            self.say(record_line(self._plan, self._unsaid))
        self._unsaid = None

    def say(self, line: str) -> None:
        """One line; nothing once the reader has gone (`muster run ... | head`): the run goes on."""
        print_line(self._stream, line)

    def end(self, summary: Summary) -> None:
        """The last version, the outcome, the run folder and three commands to try."""
        assert self._plan is not None
        self._say_record()
        for line in outcome_lines(self._plan, summary):
            self.say(line)
        if self._plan.out is not None:
            self.say(f"run folder: {self._plan.out}")
        self.say("next:")
        for command in next_commands(self._plan, summary):
            self.say(f"  {command}")


class Live:
    """A table of the last versions and a progress line, redrawn in place. NO_COLOR is honoured by rich."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole

        self._console = console or RichConsole(file=stream, highlight=False)
        self._clock = clock
        self._plan: RunPlan | None = None
        self._tally = Tally()
        self._rows: deque[tuple[str, ...]] = deque(maxlen=ROWS)
        self._row_settled = True
        self._settled_at: float | None = None
        self._drawn_at: float | None = None
        self._last: Record | None = None
        self._metric: str | None = None
        self._live: Any = None

    def begin(self, plan: RunPlan) -> None:
        """What will happen, then the table."""
        from rich.live import Live as RichLive
        from rich.text import Text

        self._plan = plan
        first, *rest = plan_lines(plan)
        self._console.print(Text(first, style="bold"))
        for line in rest:
            self._console.print(Text(f"  {line}", style="dim"))
        # No thread of its own: worker processes may be forked from this one.
        self._live = RichLive(console=self._console, auto_refresh=False)
        self._live.start()
        atexit.register(self._live.stop)  # the cursor comes back even if the run fails

    def tell(self, record: Record) -> None:
        """Updates the last row or begins one; redraws at most ten times a second."""
        now = self._clock()
        self._last = record
        self._tally.add(record)
        if record.metrics:
            self._metric = headline(record.metrics, self._plan.target_metric if self._plan else None)
        if not self._row_settled:
            self._rows.pop()
        self._rows.append(self._row(record))
        self._row_settled = bool(record.metrics) or (
            self._settled_at is None or now - self._settled_at >= ROW_GAP_SECS
        )
        if self._row_settled:
            self._settled_at = now
        if self._drawn_at is None or now - self._drawn_at >= REFRESH_SECS:
            self._drawn_at = now
            self._draw()

    def _row(self, record: Record) -> tuple[str, ...]:
        value = record.metrics.get(self._metric) if self._metric is not None else None
        counts = f"{record.num_accepted}/{record.num_late}/{record.num_lost}"
        return (
            f"{record.version:,}",
            secs_text(record.now_secs),
            secs_text(record.wall_secs),
            counts if record.version else "",
            value_text(record.loss) if record.loss is not None else "",
            value_text(value) if value is not None else "",
            bytes_text(record.up_bytes) if record.version else "",
            bytes_text(record.down_bytes) if record.version else "",
        )

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self.picture(), refresh=True)

    def picture(self) -> Any:
        """What is on the screen now, as something that rich can print."""
        from rich.console import Group
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        metric = "test loss" if self._metric == "loss" else self._metric or "accuracy"
        real = self._plan is not None and self._plan.deployed
        heads = (
            "round",
            "time" if real else "virtual",
            "wall",
            "acc/late/lost",
            "loss",
            metric,
            "up",
            "down",
        )
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True, overflow="ellipsis")
        for number, row in enumerate(self._rows):
            table.add_row(*row, style="" if number == len(self._rows) - 1 else "dim")
        return Group(table, self._progress())

    def _progress(self) -> Any:
        from rich.text import Text

        if self._plan is None or self._last is None:
            return Text("")
        done, eta = fraction_done(self._plan, self._last), eta_secs(self._plan, self._last)
        words = [round_text(self._plan, self._last)]
        if done is not None:
            filled = round(20 * done)
            bar = "━" * filled + "─" * (20 - filled)
            if not self._console.encoding.lower().startswith("utf"):
                bar = "#" * filled + "." * (20 - filled)
            words = [f"{bar} {100 * done:3.0f} %", *words]
        words.append(f"ETA {secs_text(eta)}" if eta is not None else f"until {stop_text(self._plan)}")
        best = self._tally.best.get(self._metric or "")
        if best is not None:
            words.append(f"best {self._metric} {value_text(best['value'])}")
        return Text("  ".join(words), style="cyan", no_wrap=True, overflow="ellipsis")

    def say(self, line: str) -> None:
        """Prints a notice above the table."""
        from rich.text import Text

        self._console.print(Text(line, style="yellow"))

    def end(self, summary: Summary) -> None:
        """The last picture stays; below it the outcome, the run folder and three commands to try."""
        from rich.text import Text

        assert self._plan is not None
        self._draw()
        if self._live is not None:
            self._live.stop()
            atexit.unregister(self._live.stop)
            self._live = None
        good = summary.status not in ("interrupted", "stalled")
        first, *rest = outcome_lines(self._plan, summary)
        self._console.print(Text(first, style="bold green" if good else "bold yellow"))
        for line in rest:
            self._console.print(Text(f"  {line}"))
        if self._plan.out is not None:
            self._console.print(Text(f"run folder: {self._plan.out}"), soft_wrap=True)
        self._console.print(Text("next:", style="bold"))
        for command in next_commands(self._plan, summary):
            self._console.print(Text(f"  {command}", style="cyan"), soft_wrap=True)

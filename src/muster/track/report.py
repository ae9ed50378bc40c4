"""A run on one page, as HTML that needs no network, or as one picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from muster.core.errors import UserError

from .folder import JOB, RunFolder, write_whole
from .history import History
from .page import document, section
from .sink import RunPlan
from .summary import Summary, headline
from .units import bytes_text, secs_text, share_text, short_count, value_text
from .views import sections


@dataclass(frozen=True)
class Told:
    """What a run folder tells: all of it but the model."""

    path: Path
    history: History
    plan: RunPlan | None
    summary: Summary | None
    """None while the run has not ended."""
    job: str
    """The text of job.yml; empty if there is none."""
    notes: tuple[str, ...]
    """What the reader should know, a torn record, say."""

    @property
    def name(self) -> str:
        """What the run is called: by its job, or by its folder."""
        return self.plan.name if self.plan else self.path.resolve().name

    @property
    def num_clients(self) -> int:
        """All clients there are, as far as is known."""
        return max(self.plan.num_clients if self.plan else 0, len(self.history.participation))


def told(folder: Path) -> Told:
    """Reads a run folder, of a run that is finished or not; record by record, whatever its length.

    Raises:
        RunFolderError: There is no run in `folder`, or a file in it is damaged.
    """
    run, notes = RunFolder.open(folder), list[str]()
    plan, summary = run.read_plan(), run.read_summary()
    history = History(run.read(notes.append), plan.target if plan else None)
    job = run.job() if (run.path / JOB).is_file() else ""
    return Told(run.path, history, plan, summary, job, tuple(notes))


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes a run's report and returns where it is; the same folder gives the same bytes.

    Args:
        folder: A run folder, of a run that is finished or not.
        out: The file to write; `folder/report.html` unless given.

    Raises:
        RunFolderError: There is no run in `folder`, a file in it is damaged, or the disk is full.
    """
    run = told(folder)
    path = Path(out) if out is not None else run.path / "report.html"
    write_whole(path, page(run).encode())
    return path


def write_picture(folder: Path, out: Path | None = None) -> Path:
    """Writes the report's charts as one PNG and returns where it is; the same folder gives the same bytes.

    Args:
        folder: A run folder, of a run that is finished or not.
        out: The file to write; `folder/report.png` unless given.

    Raises:
        UserError: matplotlib is not installed.
        RunFolderError: There is no run in `folder`, a file in it is damaged, or the disk is full.
    """
    from .picture import picture, png  # needs matplotlib only when it draws

    run = told(folder)
    path = Path(out) if out is not None else run.path / "report.png"
    try:
        content = png(picture(sections(run.history, run.plan), run.name))
    except ImportError as error:
        raise UserError(
            "pictures need matplotlib; install it with: pip install 'muster-fl[report]'"
        ) from error
    write_whole(path, content)
    return path


def page(run: Told) -> str:
    """The report's HTML."""
    body = [_head(run), _tiles(run), *(section(shown) for shown in sections(run.history, run.plan))]
    if run.job:
        body.append(
            f'<h2>Settings</h2><details class="card" open><summary>job.yml</summary>'
            f"<pre>{escape(run.job)}</pre></details>"
        )
    sha = run.summary.model_sha256 if run.summary else None
    of = f"model sha256 {escape(sha)} · " if sha else ""
    folder = escape(run.path.resolve().name)
    body.append(f"<footer>{of}{folder} · made by Muster from {len(run.history):,} records</footer>")
    return document(run.name, body)


def _head(run: Told) -> str:
    plan, summary, notes = run.plan, run.summary, run.notes
    if summary is None:
        status, good, why = "unfinished", False, "The run has not ended yet, or was killed."
    else:
        good = summary.status not in ("interrupted", "stalled")
        status, why = ("finished" if good else summary.status), summary.why
    lines = [
        f'<div class="status{"" if good else " bad"}">{escape(status)}</div>',
        f"<h1>{escape(run.name)}</h1>",
    ]
    if plan is not None:
        told = f"{plan.algorithm} trains {plan.model} ({short_count(plan.num_parameters)} parameters, "
        told += f"{bytes_text(plan.model_bytes)}) on {plan.data} with {plan.num_clients:,} clients."
        lines.append(f"<p>{escape(told)}</p>")
    if why:
        lines.append(f"<p>{escape(_sentence(why))}</p>")
    if plan is not None and plan.clock_only:
        notes = (
            "Clock only: nothing was trained; times, bytes and clients are as in a training run.",
            *notes,
        )
    if run.history.surrogate or (plan is not None and plan.surrogate):
        notes = ("Surrogate: losses come from a curve, not from training.", *notes)
    return "\n".join([*lines, *(f'<p class="note">{escape(note)}</p>' for note in notes)])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _tiles(run: Told) -> str:
    tally, plan, summary = run.history.tally, run.plan, run.summary
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

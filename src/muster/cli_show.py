"""The commands that show: a run's report, runs compared, what a job file can name, device populations."""

from __future__ import annotations

import json as _json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.core.errors import UserError

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; all else goes to stderr.")]


def report(
    context: typer.Context,
    folder: RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: report.html, or .png, in DIR.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="One picture instead of a page.")] = False,
    json: AsJson = False,
) -> None:
    """Write a run's report: one HTML file that is readable offline, or one picture."""
    from muster.track.report import write_picture, write_report

    place = write_picture(folder, out) if png else write_report(folder, out)
    context.obj.give({"status": "ok", "report": str(place)}, str(place))


def compare(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option(metavar="METRIC=VALUE", help="The goal; default: the first run's, or what all reached."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")] = None,
    json: AsJson = False,
) -> None:
    """Compare runs: time and bytes to the same goal, waste, fairness."""
    from muster.track.compare import compare as compare_runs
    from muster.track.compare import table, write_page

    comparison = compare_runs(folders, None if target is None else _goal(target))
    if out is not None:
        write_page(comparison, out)
    if not context.obj.as_json:
        _print_table(context.obj.out, f"goal: {comparison.goal}", *table(comparison))
    page = None if out is None else str(out)
    context.obj.give({**comparison.to_json(), "page": page}, page)


def _goal(pair: str) -> tuple[str, float]:
    """`accuracy=0.9` as metric and value."""
    metric, _, value = pair.partition("=")
    try:
        goal = metric, float(value)
    except ValueError:
        goal = "", math.nan
    if not metric or not math.isfinite(goal[1]):
        raise UserError(f"--target is {pair!r}, but must be of the form metric=value, like accuracy=0.9")
    return goal


def algorithms(context: typer.Context, json: AsJson = False) -> None:
    """List the algorithms and the parts that they are made of."""
    _list(context.obj, "algorithms")


def models(context: typer.Context, json: AsJson = False) -> None:
    """List the models."""
    _list(context.obj, "models")


def data(context: typer.Context, json: AsJson = False) -> None:
    """List the data sets and partitions."""
    _list(context.obj, "data")


devices_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@devices_app.callback(invoke_without_command=True)
def devices(context: typer.Context, json: AsJson = False) -> None:
    """List the device populations; show or import one."""
    if context.invoked_subcommand is None:
        _list(context.obj, "devices")


@devices_app.command("import")
def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Traces.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.", show_default=False)],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="auto, fedscale, flash, mahimahi, csv or parquet.")
    ] = "auto",
    json: AsJson = False,
) -> None:
    """Make traces of others a folder that the population `imported` draws from."""
    from muster.devices.importers import import_traces

    facts = import_traces(files, out, kind)
    rows = ", ".join(f"{table} {num:,}" for table, num in facts["rows"].items())
    said = f"{out}: rows of {rows}; use it with population: {{name: imported, path: {out}}}"
    context.obj.give({"status": "ok", "path": str(out), **facts}, said)


@devices_app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A population, e.g. mobile.")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Its settings: links=asymmetric", show_default=False),
    ] = None,
    clients: Annotated[int, typer.Option(metavar="N", min=1, max=10_000_000, help="How many.")] = 10_000,
    seed: Annotated[int, typer.Option(metavar="N", help="What they are drawn by.")] = 0,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the curves.")] = None,
    json: AsJson = False,
) -> None:
    """Draw a population and print its quantiles and how many are online when."""
    import numpy as np

    from muster.devices.show import description, picture
    from muster.job import load_job

    settings = [pair if "=" not in pair else f"population.{pair}" for pair in pairs or ()]
    devices = load_job({"population": {"name": name}}, settings).population
    drawn = devices.draw(np.full(clients, 1, np.int32), seed)
    body = {"status": "ok", "population": repr(devices), **description(drawn)}
    if png is not None:
        picture(drawn, f"{devices}, {clients:,} clients", png)
        body["png"] = str(png)
    context.obj.give(body, None if context.obj.as_json else _shown(body))


def _shown(body: Mapping[str, Any]) -> str:
    """A population's description as text."""
    lines = [f"{body['population']}, {body['num_clients']:,} clients", ""]
    lines.append(f"{'quantile':<12}" + "".join(f"{f'{share:.0%}':>10}" for share in body["shares"]))
    for name, values in body["quantiles"].items():
        lines.append(f"{name:<12}" + "".join(f"{value:>10,.{0 if value >= 100 else 1}f}" for value in values))
    lines += ["", "online by hour of the day"]
    for first in range(0, 24, 12):
        online = body["online_by_hour"][first : first + 12]
        lines.append(f"{'hour':<8}" + "".join(f"{first + i:>7}" for i in range(12)))
        lines.append(f"{'share':<8}" + "".join(f"{share:>7.1%}" for share in online))
    return "\n".join([*lines, *([f"\n{body['png']}"] if "png" in body else [])])


def _list(answer: Any, room: str) -> None:
    """Prints what of a room a job file can name."""
    from muster.job import catalogue

    body = catalogue(room)
    if answer.as_json:
        answer.give(body)
        return
    for kind, entries in body.items():
        rows = []
        for entry in entries:
            fields = (
                f"{key}={value if isinstance(value, str) else _json.dumps(value)}"
                for key, value in entry["fields"].items()
            )
            rows.append([entry["name"], entry["summary"], ", ".join(fields)])
        _print_table(answer.out, kind, ["name", "what it is", "settings"], rows)


def _print_table(out: Any, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    console.print(Text(title, style="italic"), soft_wrap=True)
    table = Table(box=None)
    for head in heads:
        table.add_column(Text(head))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table, highlight=False)
    console.print()

"""The command `muster`. Heavy imports live inside the commands, so that `--help` is instant.

Exit codes: 0 done; 2 the user's mistake, told in one line; 1 a bug of ours, with a traceback and where
it was written; 130 interrupted. With `--json` stdout holds one JSON object and nothing else.
"""

from __future__ import annotations

import json as _json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli_deploy import deploy, join, replay, serve
from muster.cli_operate import certs_app, state_server, status
from muster.cli_select_test import select_test
from muster.cli_show import AsJson, RunFolder, algorithms, compare, data, devices_app, models, report
from muster.core.errors import MusterError, UserError
from muster.track.lines import print_line

if TYPE_CHECKING:
    from muster.track.sink import RunPlan

DONE, OURS, USERS, INTERRUPTED = 0, 1, 2, 130

Conf = Annotated[str, typer.Argument(metavar="CONF", help="The job file (YAML).", show_default=False)]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes to it: algorithm.pace.cohort=50", show_default=False
    ),
]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Federated learning from one job file, simulated on a virtual clock.",
)


def main(args: list[str] | None = None) -> None:
    """The entry point of the command; `args` default to the process's. Ends with SystemExit."""
    args = (sys.argv[1:] if args is None else args) or ["--help"]
    with _stdout_for("--json" in args) as answer:
        answer.typed = shlex.join(["muster", *args])
        code = _code_of(args, answer)
    raise SystemExit(code)


def _code_of(args: list[str], answer: _Answer) -> int:
    try:
        result = app(args, prog_name="muster", standalone_mode=False, obj=answer)
        return result if isinstance(result, int) else DONE
    except UserError as error:
        return _told(answer, str(error), "refused", USERS)
    except (KeyboardInterrupt, typer.Abort):
        return _told(answer, "interrupted", "interrupted", INTERRUPTED)
    except MusterError as error:  # a client's training failed, maybe in the user's own code
        traceback.print_exception(error)  # it names the line of that code
        place = getattr(error, "written_to", None)
        return _told(answer, f"{error}" + (f" (traceback in {place})" if place else ""), "failed", OURS)
    except Exception as error:
        # The command line itself is wrong; typer may bring its own click.
        if hasattr(error, "format_message"):
            return _told(answer, f"{error.format_message()} (see muster --help)", "refused", USERS)
        return _ours(answer, error)


class _Answer:
    """What a command prints: text for people, or, with --json, one object. `typed` is the command itself."""

    def __init__(self, as_json: bool, out: Any) -> None:
        self.as_json, self.out = as_json, out
        self.typed = "muster"

    def give(self, body: Mapping[str, Any], text: str | None = None) -> None:
        """Prints the object (only with --json) or the text."""
        said = _json.dumps(body) if self.as_json else text
        if said:
            print_line(self.out, said)

    def explain(self, plan: RunPlan, lines: list[str]) -> None:
        """Prints what a run would do."""
        from muster.track.phrases import plan_lines

        body = {"status": "ok", "plan": plan.to_json(), "lines": lines}
        self.give(body, "\n".join([*plan_lines(plan), *lines]))


@contextmanager
def _stdout_for(as_json: bool) -> Iterator[_Answer]:
    """With --json everything that is not the answer goes to stderr, what a user's code prints included."""
    if not as_json:
        yield _Answer(False, sys.stdout)
        return
    out = sys.stdout
    saved = -1
    with suppress(OSError, ValueError, AttributeError):  # no real descriptor under a test's stdout
        if out.fileno() == 1:
            out.flush()
            saved = os.dup(1)
            os.dup2(2, 1)  # workers inherit it
            out = os.fdopen(os.dup(saved), "w", encoding="utf-8")
    try:
        with redirect_stdout(sys.stderr):
            yield _Answer(True, out)
    finally:
        if saved >= 0:
            out.close()
            os.dup2(saved, 1)
            os.close(saved)


def _told(answer: _Answer, text: str, status: str, code: int) -> int:
    text = " ".join(text.split())
    print(f"muster: {text}", file=sys.stderr)
    answer.give({"status": status, "error": text})
    return code


def _ours(answer: _Answer, error: Exception) -> int:
    """A bug of ours: the traceback, and the file it was written to (the run's folder, or a temporary one)."""
    traceback.print_exception(error)
    place = getattr(error, "written_to", None)
    if place is None:
        number, place = tempfile.mkstemp(prefix="muster-", suffix=".traceback.txt")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    text = f"this is a bug in Muster: {type(error).__name__}: {error}; the traceback was written to {place}"
    return _told(answer, text, "failed", OURS)


def _version(wanted: bool) -> None:
    if wanted:
        import muster

        print(f"muster {muster.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    context: typer.Context,
    conf: Conf,
    pairs: Pairs = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder.")] = None,
    json: AsJson = False,
    clock_only: Annotated[
        bool, typer.Option("--clock-only", help="Timing only: nothing is trained.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say what the time went into, and write profile.json.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what would be done and what was chosen; run nothing."),
    ] = False,
) -> int:
    """Run a job."""
    from muster.job import load_job

    job = load_job(conf, pairs or ())
    from muster.run import explain as explained
    from muster.run import run as run_job

    if explain:
        context.obj.explain(*explained(job, clock_only=clock_only, conf=conf))
        return DONE
    return _ended(
        context.obj, run_job(job, out, clock_only=clock_only, json=json, conf=conf, profile=profile)
    )


@app.command()
def resume(context: typer.Context, folder: RunFolder, json: AsJson = False) -> int:
    """Go on with a run that was stopped."""
    from muster.run import resume as resume_run

    return _ended(context.obj, resume_run(folder, json=json))


def _ended(answer: _Answer, summary: Mapping[str, Any]) -> int:
    answer.give(summary)
    return INTERRUPTED if summary.get("status") == "interrupted" else DONE


@app.command()
def check(context: typer.Context, conf: Conf, pairs: Pairs = None, json: AsJson = False) -> int:
    """Check a job file and print the job with every setting written out."""
    from muster.job import dump_job, job_to_dict, load_job, num_clients

    job = load_job(conf, pairs or ())
    clients, busy = num_clients(job), job.algorithm.pace.max_out
    known = "as many clients as the data names" if clients is None else f"{clients:,} clients"
    said = f"# {conf} can run: {known}, up to {busy:,} of them at work at once\n"
    body = {"status": "ok", "num_clients": clients, "max_out": busy, "job": job_to_dict(job)}
    context.obj.give(body, said + dump_job(job).rstrip())
    return DONE


@app.command()
def schema(context: typer.Context, json: AsJson = False) -> int:
    """Print the JSON schema of job files, for editors."""
    from muster.job import json_schema

    context.obj.give(body := json_schema(), _json.dumps(body, indent=2))
    return DONE


for _command in (
    report,
    compare,
    algorithms,
    models,
    data,
    select_test,
    state_server,
    status,
    serve,
    join,
    deploy,
    replay,
):
    app.command()(_command)
for _name, _commands in (("devices", devices_app), ("certs", certs_app)):
    app.add_typer(_commands, name=_name)

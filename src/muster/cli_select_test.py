"""`muster select-test`: whom to test a job's model on, by Oort's testing selector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.core.errors import UserError

if TYPE_CHECKING:
    from muster.job import Job


def select_test(
    context: typer.Context,
    conf: Annotated[str, typer.Argument(metavar="CONF", help="The job file (YAML).", show_default=False)],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it.", show_default=False),
    ] = None,
    deviation: Annotated[
        float | None, typer.Option(metavar="X", help="How far the clients' average may be off.")
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option("--range", metavar="X", help="Largest less smallest value; default: of their examples."),
    ] = None,
    confidence: Annotated[float, typer.Option(metavar="P", help="Chance that it is not more.")] = 0.95,
    wanted: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="G=N", help="N examples of class G; may be repeated."),
    ] = None,
    budget: Annotated[int, typer.Option(metavar="N", min=1, help="The most clients, by class.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose the clients to test a model on: by deviation, or so many examples of each class."""
    from muster.job import load_job

    if (deviation is None) == (not wanted):
        raise UserError("give either --deviation X or --class G=N (once for each class)")
    job = load_job(Path(conf), pairs or ())
    body = (
        _by_deviation(job, deviation, spread, confidence)
        if deviation is not None
        else _by_category(job, wanted or [], budget)
    )
    clients = " ".join(map(str, body["clients"]))
    lines = [f"{len(body['clients'])} of {body['num_clients']} clients", clients]
    if "secs" in body:
        lines += [f"done after {body['secs']:.2f} s of virtual time"]
    context.obj.give({"status": "ok", **body}, "\n".join(lines))


def _by_deviation(job: Job, deviation: float, spread: float | None, confidence: float) -> dict[str, Any]:
    from muster.algorithms.testing_selector import by_deviation
    from muster.data.store import prepare

    data = prepare(job.data, job.seed)
    if spread is None:
        spread = float(data.num_examples.max() - data.num_examples.min())
    drawn = by_deviation(deviation, spread, data.num_clients, confidence, job.seed)
    return {"num_clients": data.num_clients, "clients": drawn.tolist()}


def _by_category(job: Job, wanted: list[str], budget: int) -> dict[str, Any]:
    import numpy as np

    from muster.algorithms.testing_selector import by_category
    from muster.compose import compose
    from muster.data.store import prepare

    data = prepare(job.data, job.seed)
    num_classes = data.facts.num_classes
    request = np.zeros(num_classes, np.int64)
    for pair in wanted:
        name, _, count = pair.partition("=")
        if not (name.isdecimal() and count.isdecimal() and int(name) < num_classes):
            raise UserError(
                f"--class {pair} must be CLASS=EXAMPLES, two whole numbers, the class below {num_classes}"
            )
        request[int(name)] += int(count)
    counts = np.stack([np.bincount(data.client(i).y, minlength=num_classes) for i in range(data.num_clients)])
    session = compose(job, clock_only=True)
    try:
        who = job.population.draw(np.asarray(data.num_examples), job.seed)
        load_secs = 8 * session.spec.num_bytes / (1000 * who.down_kbps.astype(np.float64))
        done = by_category(counts, request, who.ms_per_example.astype(np.float64), load_secs, budget)
    finally:
        session.close()
    return {
        "num_clients": data.num_clients,
        "clients": done.clients.tolist(),
        "examples": done.examples.tolist(),
        "secs": done.secs,
    }

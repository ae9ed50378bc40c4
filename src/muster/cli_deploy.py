"""The commands of deployed runs: serve, join, deploy, replay."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

Conf = Annotated[str, typer.Argument(metavar="CONF", help="The job file (YAML).", show_default=False)]
Pairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to it.", show_default=False),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder.")]
Certs = Annotated[Path | None, typer.Option(metavar="DIR", help="Certificates (muster certs init).")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plaintext, on this machine only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object; all else goes to stderr.")]

DONE, INTERRUPTED = 0, 130


def serve(
    context: typer.Context,
    conf: Conf,
    pairs: Pairs = None,
    out: Out = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any free port.")] = 7433,
    state_port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="Of ESync's state server, which a job with leases has; default: the next one.",
        ),
    ] = None,
    certs: Certs = None,
    insecure: Insecure = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Clients show tokens, not certificates.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check port, disk, certificates, clock and data; serve nothing.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what would be done and with which limits; serve nothing.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Serve a job to real clients; a folder with an unfinished run is gone on with."""
    from muster.deploy.listen import Listen
    from muster.deploy.server import serve as serve_job
    from muster.job import load_job

    job, listen = load_job(conf, pairs or ()), Listen(host, port, certs, insecure, tokens, state_port)
    if explain:
        from muster.deploy.explain import explain as explained

        context.obj.explain(*explained(job, listen, conf))
        return DONE
    if dry_run:
        from muster.deploy.checks import check

        found = check(job, out or Path("runs"), listen)
        text = "\n".join(f"{'ok  ' if fine else 'FAIL'} {what}: {said}" for what, fine, said in found)
        good = all(fine for _, fine, _ in found)
        rows = [{"check": what, "ok": fine, "said": said} for what, fine, said in found]
        context.obj.give({"status": "ok" if good else "refused", "checks": rows}, text)
        return DONE if good else 2
    summary = serve_job(job, out, listen, json=json, conf=conf, command=context.obj.typed)
    context.obj.give(summary)
    return INTERRUPTED if summary.get("status") == "interrupted" else DONE


def join(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", show_default=False)],
    name: Annotated[str, typer.Option(metavar="NAME", help="Who this client is.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Its data: a prepared folder, or a .npz file with x and y."),
    ] = None,
    train: Annotated[
        str | None, typer.Option(metavar="FILE.py:FUNCTION", help="Your own train(params, data, task).")
    ] = None,
    certs: Certs = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A token in place of a certificate.")
    ] = None,
    insecure: Insecure = False,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where what lasts from task to task is kept.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run Python files of this machine that the job names.")
    ] = False,
    step_secs: Annotated[
        float, typer.Option(metavar="SECS", min=0, help="A step takes so long at least: for experiments.")
    ] = 0.0,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="What torch computes on: cpu, cuda, cuda:N or auto.")
    ] = "cpu",
    json: AsJson = False,
) -> int:
    """Take part in a run as a client."""
    from muster.deploy.door import Door
    from muster.deploy.worker import join as take_part

    ended = take_part(
        Door(address, name, certs, token_file, insecure),
        data=data,
        train=train,
        home=home,
        allow_code=allow_code,
        step_secs=step_secs,
        device=device,
    )
    context.obj.give(ended, f"the run has ended: {ended['why']} ({ended['num_tasks']} tasks here)")
    return DONE


def deploy(
    context: typer.Context,
    conf: Conf,
    pairs: Pairs = None,
    local: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Client processes; default: as many as the job has clients."),
    ] = None,
    out: Out = None,
    insecure: Insecure = False,
    step_secs: Annotated[
        list[float] | None,
        typer.Option(metavar="SECS", help="As of join, for client-0, client-1, ...; may be repeated."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="As of join, for all clients; default: the job's engine.device."),
    ] = None,
    json: AsJson = False,
) -> int:
    """Run a job with a server and N real client processes on this machine."""
    from muster.deploy.local import deploy as deploy_job
    from muster.job import load_job, num_clients
    from muster.track.folder import reserved

    job = load_job(conf, pairs or ())
    num = local or num_clients(job) or 1
    with nullcontext(out) if out else reserved(Path("runs"), job.name) as place:
        summary = deploy_job(
            job,
            place,
            num,
            insecure=insecure,
            step_secs=step_secs or (),
            device=device,
            json=json,
            conf=conf,
            command=context.obj.typed + ("" if out else f" --out {place}"),
        )
    context.obj.give(summary)
    return INTERRUPTED if summary.get("status") == "interrupted" else DONE


def replay(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.", show_default=False)],
    relearn: Annotated[
        bool, typer.Option("--relearn", help="Learn every update again, on the job's data, and compare it.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, help="With --relearn: how far apart, by an update's length."),
    ] = 1e-4,
    json: AsJson = False,
) -> int:
    """Make a deployed run again from its journal and updates, and compare every model."""
    from muster.deploy.replay import replay as make_again

    body = make_again(folder, relearn=relearn, tolerance=tolerance)
    said = f"versions {body['first']} to {body['version']} came out the same: model {body['model_sha256']}"
    if relearn:
        said += (
            f"\n{body['num_updates']} updates were learnt again, {body['num_exact']} of them to the bit "
            f"({body['num_missing']} were no longer there); the largest difference is "
            f"{body['largest_difference']:.3g} of an update's length"
        )
    context.obj.give(body, said)
    return DONE

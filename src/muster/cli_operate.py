"""The commands of those who operate a deployment: certificates, tokens, the state server, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from muster.core.errors import UserError

certs_app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Make, sign and renew the certificates of a deployment.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The identity's name.", show_default=False)]
Folder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The certificates' folder.")]
Days = Annotated[int, typer.Option(metavar="N", min=1, max=3650, help="Valid for so long.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="HOST", help="A name or address of the server; may be repeated."),
]
Audited = Annotated[
    Path | None,
    typer.Option("--audit", metavar="FILE", help="The audit log; default: in the certificates' folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

HERE = Path("certs")


@certs_app.command()
def init(context: typer.Context, folder: Folder = HERE, host: Hosts = None, json: AsJson = False) -> None:
    """Make an authority and the server's certificate."""
    from muster.net import certs

    certs.init(folder, host or ())
    said = f"{folder}: an authority (ca.key: keep it off the network) and the identity server"
    context.obj.give({"status": "ok", "folder": str(folder)}, said)


@certs_app.command()
def request(context: typer.Context, name: Name, folder: Folder = HERE, json: AsJson = False) -> None:
    """Make a key that stays here, and the request to take to the operator."""
    from muster.net import certs

    csr = certs.make_request(folder, name)
    said = f"{csr}: give it to the operator; put the {name}.crt and ca.crt that come back into {folder}"
    context.obj.give({"status": "ok", "request": str(csr)}, said)


@certs_app.command()
def issue(
    context: typer.Context,
    name: Name,
    folder: Folder = HERE,
    role: Annotated[str, typer.Option(metavar="ROLE", help="server, client, viewer or admin.")] = "client",
    host: Hosts = None,
    csr: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A request made elsewhere; else the key is made here.")
    ] = None,
    token: Annotated[bool, typer.Option("--token", help="A token in place of a certificate.")] = False,
    days: Days = 365,
    json: AsJson = False,
) -> None:
    """Sign a certificate, or print a new token."""
    from muster.net import access, certs
    from muster.net.identity import read_file

    if token:
        fresh = access.add_token(folder, name, role, days)
        context.obj.give({"status": "ok", "token": fresh}, fresh)
        return
    asked = read_file(csr) if csr else None
    place = certs.issue(folder, name, role=role, hosts=host or (), csr=asked, days=days)
    context.obj.give({"status": "ok", "certificate": str(place)}, str(place))


@certs_app.command()
def rotate(
    context: typer.Context, name: Name, folder: Folder = HERE, days: Days = 365, json: AsJson = False
) -> None:
    """Renew an identity's key and certificate, or the authority: NAME is ca."""
    from muster.net import certs

    place = certs.rotate(folder, name, days)
    context.obj.give(
        {"status": "ok", "certificate": str(place)}, f"{place} is new; servers read it by themselves"
    )


@certs_app.command()
def revoke(context: typer.Context, name: Name, folder: Folder = HERE, json: AsJson = False) -> None:
    """End the tokens and certificates that NAME has, at once; new ones may be issued."""
    from muster.net import access

    access.revoke(folder, name)
    context.obj.give({"status": "ok", "revoked": name}, f"{name}: all that it had until now is revoked")


@certs_app.command()
def show(context: typer.Context, folder: Folder = HERE, json: AsJson = False) -> None:
    """List the certificates of a folder, and what is wrong or soon will be."""
    from muster.net.identity import describe

    rows = describe(folder)
    lines = [f"{row['file']:<28}{row['role']:<10}{row['until']:<22}{row['note']}" for row in rows]
    context.obj.give({"status": "ok", "certificates": rows}, "\n".join(lines))


def state_server(
    context: typer.Context,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any free port.")] = 10010,
    certs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Certificates and tokens (muster certs init).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plaintext without tokens, on this machine only.")
    ] = False,
    lease_secs: Annotated[
        float, typer.Option(metavar="SECS", min=0.1, help="Silent for so long: the worker is dead.")
    ] = 30.0,
    margin_secs: Annotated[
        float, typer.Option(metavar="SECS", help="End a step so long before the slowest's.")
    ] = 0.0,
    max_steps: Annotated[int, typer.Option(metavar="N", min=1, help="The most steps of a round.")] = 10_000,
    each_step: Annotated[
        bool, typer.Option("--each-step", help="Workers ask after every step, as in the paper.")
    ] = False,
    rule: Annotated[
        Literal["paper", "compute_only"],
        typer.Option(help="paper: who is slowest by computing and sending; compute_only: as in 2019."),
    ] = "paper",
    audit: Audited = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Logs as JSON lines.")] = False,
    json: AsJson = False,
) -> None:
    """Run ESync's state server alone: RESET, REPORT, QUERY, RESPONSE, and the endpoints of 2019."""
    from muster.net import web
    from muster.net.access import Audit, Gatekeeper
    from muster.net.credentials import LiveIdentity, check_plaintext
    from muster.net.esync_http import FirstStateServer
    from muster.net.logs import json_logs
    from muster.net.ports import listening
    from muster.net.state_server import StateServer
    from muster.net.state_service import application
    from muster.net.state_table import Rules

    if (certs is None) != insecure:
        raise UserError("give --certs DIR (made by `muster certs init`), or --insecure on this machine alone")
    if log_json:
        json_logs()
    check, tls = None, None
    if certs is None:
        check_plaintext(host)
    else:
        tls = web.tls_context(LiveIdentity(certs, "server", lambda line: typer.echo(line, err=True)))
        check = web.tokens_of(Gatekeeper(certs, Audit(audit or certs / "audit.jsonl")), ("client",))
    listener = listening(host, port)
    rules = Rules(lease_secs, margin_secs, max_steps, not each_step, rule)
    at = f"{'http' if insecure else 'https'}://{host}:{listener.getsockname()[1]}"
    context.obj.give({"status": "listening", "url": at}, f"the state server listens on {at}")
    server = StateServer(rules)
    web.run(application(server, FirstStateServer(), check, server.working), listener, tls)


def status(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.", show_default=False)],
    port: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=65535, help="Serve the live page; 0: any free port.")
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    certs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="TLS, and tokens of viewers (muster certs init).")
    ] = None,
    audit: Audited = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Logs as JSON lines.")] = False,
    json: AsJson = False,
) -> None:
    """Show how a run is doing, simulated or deployed; with --port as a page that keeps itself fresh."""
    from muster.net.watch import Watch

    watch = Watch(folder)
    if port is None:
        seen = watch.look()
        context.obj.give({"status": "ok", **seen.to_json()}, seen.text())
        return
    import secrets

    from muster.net import metrics, web
    from muster.net.access import Audit, Gatekeeper
    from muster.net.credentials import LiveIdentity, check_plaintext
    from muster.net.logs import json_logs
    from muster.net.ports import listening
    from muster.net.status_page.routes import routes
    from muster.track.folder import RECORDS

    if log_json:
        json_logs()
    more: list[metrics.Source] = []
    if certs is None:
        check_plaintext(host)
        token = secrets.token_urlsafe(24)
        check, tls, query = web.one_token(token), None, f"?token={token}"
    else:
        tls = web.tls_context(LiveIdentity(certs, "server", lambda line: typer.echo(line, err=True)))
        check = web.tokens_of(Gatekeeper(certs, Audit(audit or certs / "audit.jsonl")), ("viewer",))
        query = "?token=TOKEN"
        more.append(lambda: metrics.of_certificates(certs))

    def ready() -> bool:
        return (folder / RECORDS).exists()

    listener = listening(host, port)
    url = f"{'https' if certs else 'http'}://{host}:{listener.getsockname()[1]}/{query}"
    context.obj.give({"status": "listening", "url": url}, f"{folder}: {url}")
    web.run(web.application(routes(watch.look, *more), check, ready), listener, tls)

"""The commands of those who operate a deployment: certificates and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

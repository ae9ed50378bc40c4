"""How a client gets in: address, name, and what shows that it is who it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muster.core.errors import UserError
from muster.net.client import Say
from muster.net.link import Link


@dataclass(frozen=True)
class Door:
    """How a client gets in."""

    address: str
    """HOST:PORT."""
    name: str
    certs: Path | None = None
    """Folder with NAME.crt, NAME.key and ca.crt."""
    token_file: Path | None = None
    """A token instead of a certificate; `certs` then needs ca.crt only."""
    insecure: bool = False


def open_link(door: Door, say: Say) -> Link:
    """The link to a server.

    Raises:
        UserError: The address is none, or a certificate cannot be used.
    """
    host, _, port = door.address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{door.address!r} is no address; write HOST:PORT")
    from muster.net.credentials import LiveIdentity, check_plaintext, client_credentials, read_token
    from muster.net.identity import explain_server, read_file

    if door.insecure:
        check_plaintext(host)
        return Link(door.address, None, door.name, say)
    if door.certs is None:
        raise UserError(
            "a client needs certificates: give --certs DIR, or say --insecure, for this machine only"
        )
    if door.token_file is not None:
        roots = read_file(door.certs / "ca.crt")
        credentials = client_credentials(roots, token=read_token(door.token_file))
    else:
        identity = LiveIdentity(door.certs, door.name, say).current()
        roots = identity.roots
        credentials = client_credentials(roots, identity)

    def explain(secs: float) -> str | None:
        return explain_server(host.strip("[]"), int(port), roots, secs)

    return Link(door.address, credentials, door.name, say, explain)

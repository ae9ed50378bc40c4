"""Where a server listens, and how it is secured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muster.core.errors import UserError

PORT = 7433


@dataclass(frozen=True)
class Listen:
    """Where and how a server listens."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0: any that is free."""
    certs: Path | None = None
    """Folder of certificates; None with `insecure`."""
    insecure: bool = False
    """Plaintext, on this machine only."""
    tokens: bool = False
    """Clients show a token instead of a certificate."""
    state_port: int | None = None
    """Of the state server that a pace with leases has; None: the next after `port`. 0: any that is free."""

    def __post_init__(self) -> None:
        if self.state_port == self.port != 0:
            raise UserError(f"--port and --state-port are both {self.port}: choose two")
        if self.insecure:
            from muster.net.credentials import check_plaintext

            check_plaintext(self.host)
        elif self.certs is None:
            raise UserError(
                "a server needs certificates: make them with `muster certs init` and give --certs DIR, or "
                "say --insecure, for this machine only"
            )

"""What a client keeps from task to task, in memory or on its disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from muster.core.durable import make_folder
from muster.track.folder import write_whole


@dataclass
class Lasting:
    """What a client keeps from task to task: both old and new, until it hears which the server took."""

    home: Path | None = None
    """Where it is on disk; None: in memory only."""
    kept: bytes | None = None
    waiting: dict[int, bytes] = field(default_factory=dict)
    """By ticket."""

    def __post_init__(self) -> None:
        if self.home is None:
            return
        make_folder(self.home)
        for path in self.home.glob("*.state"):
            if path.stem == "kept":
                self.kept = path.read_bytes()
            else:
                self.waiting[int(path.stem)] = path.read_bytes()

    def offer(self, ticket: int, state: bytes) -> None:
        """Keeps a state for the case that its update is accepted."""
        self.waiting[ticket] = state
        if self.home is not None:
            write_whole(self.home / f"{ticket}.state", state)

    def settle(self, ticket: int, what: str) -> None:
        """Takes over the state of an accepted update; forgets that of any other."""
        state = self.waiting.pop(ticket, None)
        if state is not None and what == "accepted":
            self.kept = state
            if self.home is not None:
                write_whole(self.home / "kept.state", state)
        if self.home is not None:
            (self.home / f"{ticket}.state").unlink(missing_ok=True)

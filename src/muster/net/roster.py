"""Who the clients are: names bound to rows of the population, sessions, leases, and who is in quarantine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError


@dataclass
class Member:
    """A client that has joined once."""

    client: int
    name: str
    instance: str = ""
    """Of its newest process, in hexadecimal digits."""
    num_examples: int = 0
    present: bool = False
    refused: int = 0
    """Tasks in a row whose update was refused, or whose training failed."""
    quarantined: str = ""
    """Why it gets no more work; empty if it does."""


@dataclass
class Roster:
    """The clients of a run.

    Args:
        num_clients: Rows of the population.
        names: Of the data's natural clients, by row; empty if they have none.
        secret: Of the run: sessions and nonces are made from it, so that none has to be kept.
        quarantine_after: Tasks in a row, failed or refused, that put a client into quarantine.

    """

    num_clients: int
    names: Sequence[str]
    secret: bytes
    quarantine_after: int
    members: dict[int, Member] = field(default_factory=dict)

    def find(self, name: str) -> Member | None:
        """The member of that name."""
        return next((member for member in self.members.values() if member.name == name), None)

    def row_for(self, name: str) -> int:
        """The row of a new name: its own if the data knows it or it ends in a number, else a free one.

        Raises:
            UserError: All rows are taken.
        """
        if name in self.names:
            return list(self.names).index(name)
        number = re.search(r"(\d{1,9})$", name)
        if number and int(number[1]) < self.num_clients and int(number[1]) not in self.members:
            return int(number[1])
        free = next((row for row in range(self.num_clients) if row not in self.members), None)
        if free is None:
            raise UserError(
                f"{name} cannot join: all {self.num_clients} clients of the job have joined under other "
                "names; raise data.partition.num_clients for a new run, or join under one of their names"
            )
        return free

    def present(self) -> npt.NDArray[np.int64]:
        """The rows of those that may get work, in rising order."""
        here = [m.client for m in self.members.values() if m.present and not m.quarantined]
        return np.array(sorted(here), np.int64)

    def seat(self, client: int, more: Mapping[str, Any]) -> None:
        """Enters a client that joins, as its journal entry says."""
        member = self.members.setdefault(client, Member(client, more["name"]))
        member.instance, member.num_examples = more["instance"], int(more["num_examples"])
        member.present = True

    def judge(self, client: int, fault: str) -> bool:
        """Counts what came of a client's task; returns whether that puts it into quarantine.

        `fault` says what was wrong with it; empty: nothing.
        """
        member = self.members[client]
        member.refused = member.refused + 1 if fault else 0
        if member.refused < self.quarantine_after or member.quarantined:
            return False
        count = f"{member.refused} of its tasks in a row went wrong (deploy.quarantine_after)"
        member.quarantined = f"{count}, the last: {fault}"
        return True

    def session(self, member: Member) -> bytes:
        """What shows that a call comes from this process of this client."""
        return self._mac("session", member.client, member.name, member.instance)

    def nonce(self, client: int, ticket: int, version: int, model_sha256: str) -> bytes:
        """What an update of a task must carry: bound to the client, the task and the model it was sent."""
        return self._mac("nonce", client, ticket, version, model_sha256)

    def _mac(self, *parts: object) -> bytes:
        text = "\n".join(str(part) for part in parts)
        return hashlib.blake2b(text.encode(), key=self.secret, digest_size=16).digest()

    def save(self) -> list[dict[str, Any]]:
        """The members as JSON data; `load` is the inverse."""
        return [dict(vars(member)) for _, member in sorted(self.members.items())]

    def load(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Puts saved members back."""
        self.members = {int(body["client"]): Member(**body) for body in saved}

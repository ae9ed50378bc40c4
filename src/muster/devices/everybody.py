"""Who is online, of everybody: asked at one instant after the other, when a select ranks all clients."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from muster.core.tables import Ids


class There(Protocol):
    """What is asked of `Availability`."""

    def stretch(self, clients: Ids, at_ns: int) -> tuple[npt.NDArray[np.bool_], Ids]:
        """Whether each client is online, bool[K], and the first later instant at which that may end."""
        ...


class Everybody:
    """Remembers until when each client stays as it was, so that at the next instant few are looked up.

    What it says depends on the instant alone; what it remembers, 9 bytes a client, only makes it fast where
    little virtual time passes between two questions. An instant before the last one begins anew.
    """

    def __init__(self) -> None:
        self._at_ns = -1
        self._online = np.zeros(0, bool)
        self._until = np.zeros(0, np.int64)
        """The first instant at which each client may be otherwise."""

    def online(self, there: There, num_clients: int, at_ns: int) -> npt.NDArray[np.bool_]:
        """bool[C]: whether each client is online at the instant; a new array."""
        if len(self._online) != num_clients or at_ns < self._at_ns:
            self._online, self._until = np.zeros(num_clients, bool), np.zeros(num_clients, np.int64)
        ids = np.flatnonzero(self._until <= at_ns)
        self._online[ids], self._until[ids] = there.stretch(ids, at_ns)
        self._at_ns = at_ns
        return self._online.copy()

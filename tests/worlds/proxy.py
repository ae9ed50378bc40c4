"""A TCP proxy that does to a connection what networks do: cut it, stall it, slow it down."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Forwards 127.0.0.1:`port` to another port of this machine.

    Attributes:
        cut_after: Bytes towards the server after which a connection is reset; None: never. Used up by a cut.
        cuts_again: What `cut_after` is after each cut, in turn.
        stalled: While it is set, nothing moves, and connections stay open.
        closed: While it is set, connections are reset, and new ones too.
        delay_secs: Each piece is held up so long.
        grain: Bytes of a piece at most.
        num_up: Bytes that have gone towards the server.

    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut_after: int | None = None
        self.cuts_again: list[int] = []
        self.stalled, self.closed = threading.Event(), threading.Event()
        self.delay_secs, self.grain, self.num_up, self.num_cuts = 0.0, 65536, 0, 0
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                if self.closed.is_set():
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                if self._listener.fileno() < 0:
                    return
                near.close()  # the server is away
                continue
            self._ends += [near, far]
            threading.Thread(target=self._pump, args=(near, far, self._up), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, lambda size: False), daemon=True).start()

    def _up(self, size: int) -> bool:
        """Counts bytes towards the server; whether the connection is to be cut now."""
        self.num_up += size
        if self.cut_after is None:
            return False
        self.cut_after -= size
        if self.cut_after > 0:
            return False
        self.cut_after = self.cuts_again.pop(0) if self.cuts_again else None
        self.num_cuts += 1
        return True

    def _pump(self, source: socket.socket, sink: socket.socket, count: Callable[[int], bool]) -> None:
        with suppress(OSError):
            while data := source.recv(self.grain):
                while self.stalled.is_set() and not self.closed.is_set():
                    time.sleep(0.01)
                if self.closed.is_set() or count(len(data)):
                    break
                if self.delay_secs:
                    time.sleep(self.delay_secs)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.closed.set()
        self._listener.close()
        for end in self._ends:
            with suppress(OSError):
                end.close()

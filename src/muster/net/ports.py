"""A listening socket, or one sentence that names who has the port."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from muster.core.errors import UserError

FILES = 200
"""Open files of a server beside its clients' connections: models, updates that are written, logs."""


def room_for(num_clients: int) -> str | None:
    """Has the system allow a connection for each client; one sentence if it does not allow so many."""
    try:
        import resource
    except ImportError:  # Windows counts otherwise
        return None
    wanted = num_clients + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return None
    return (
        f"the system allows {hard:,} open files, but {num_clients:,} clients need {wanted:,}: not all "
        f"of them can be connected at once; raise the limit (`ulimit -Hn {wanted}`, LimitNOFILE= of the unit)"
    )


def listening(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens on `host` and `port`, which `option` chooses; 0: any free port.

    Raises:
        UserError: The port is in use (names the process if it can be seen), is for root only, or `host`
            is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            pid = holder_of(port)
            who = f"process {pid} ({_command(pid)})" if pid else "another process"
            raise UserError(
                f"port {port} is in use by {who}: stop it, or choose another {option} (0: any free one)"
            ) from error
        raise UserError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error


def holder_of(port: int) -> int | None:
    """The process that listens on a TCP port of this machine; None if it cannot be seen."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            cells = line.split()
            if cells[3] == "0A" and int(cells[1].rpartition(":")[2], 16) == port:  # 0A: it listens
                inodes.add(f"socket:[{cells[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in inodes:
                return int(link.parts[2])
        except OSError:
            continue  # it has ended, or is another user's
    return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    except OSError:
        return "unknown"

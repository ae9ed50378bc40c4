"""A port in use is told with the process that has it."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from muster.core.errors import UserError
from muster.net.ports import FILES, holder_of, listening, room_for


def test_a_port_in_use_names_the_process() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert holder_of(port) == os.getpid()
        with pytest.raises(UserError, match=rf"port {port} is in use by process {os.getpid()} \("):
            listening("127.0.0.1", port)


def test_port_zero_is_any_free_one() -> None:
    with listening("127.0.0.1", 0) as one, listening("127.0.0.1", 0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_a_strange_address_is_told() -> None:
    with pytest.raises(UserError, match=r"192\.0\.2\.77:0 cannot be listened on"):
        listening("192.0.2.77", 0)


def test_nobody_holds_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as soon_free:
        port = soon_free.getsockname()[1]
    assert holder_of(port) is None


@pytest.mark.parametrize(
    ("limits", "num_clients", "made", "said"),
    [
        ((1024, 4096), 1024 - FILES, None, False),  # there is room
        ((1024, 4096), 1000, (1000 + FILES, 4096), False),  # the limit is raised as far as is needed
        ((1024, 4096), 5000, (4096, 4096), True),
        ((4096, 4096), 5000, None, True),
    ],
)
def test_there_is_a_file_for_each_client(
    limits: tuple[int, int], num_clients: int, made: Any, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    set_to: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, to: set_to.append(to))
    told = room_for(num_clients)
    assert set_to == ([made] if made else [])
    assert (told is not None) == said
    assert told is None or "allows 4,096 open files, but 5,000 clients need 5,200" in told

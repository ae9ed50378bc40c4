"""A port in use is told with the process that has it."""

from __future__ import annotations

import os
import socket

import pytest

from muster.core.errors import UserError
from muster.net.ports import holder_of, listening


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

"""TLS over gRPC on a real socket: who gets in, and what a rotation does to calls that go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from muster.core.errors import CertificateError, UserError
from muster.net import access, certs
from muster.net.access import Audit, Gatekeeper
from muster.net.credentials import (
    LiveIdentity,
    check_plaintext,
    client_credentials,
    read_token,
    server_credentials,
)
from muster.net.identity import load_identity

WHO = "/test/Who"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.init(tmp_path, now=datetime.now(UTC) - timedelta(days=10))
    certs.issue(tmp_path, "c1")
    return tmp_path


@contextmanager
def server(live: LiveIdentity, keeper: Gatekeeper, *, mutual: bool) -> Iterator[str]:
    """A server with one method that answers the caller's name."""

    def who(request: bytes, context: grpc.ServicerContext) -> bytes:
        peer = keeper.admit(
            context.auth_context(), context.invocation_metadata(), context.peer(), "Who", ["client"]
        )
        return peer.name.encode()

    grpc_server = grpc.server(ThreadPoolExecutor(2))
    handler = grpc.method_handlers_generic_handler("test", {"Who": grpc.unary_unary_rpc_method_handler(who)})
    grpc_server.add_generic_rpc_handlers((handler,))
    port = grpc_server.add_secure_port("127.0.0.1:0", server_credentials(live, mutual=mutual))
    grpc_server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        grpc_server.stop(None).wait()


def asked(channel: grpc.Channel) -> str:
    return bytes(channel.unary_unary(WHO)(b"", timeout=5)).decode()


@contextmanager
def channel(target: str, credentials: grpc.ChannelCredentials) -> Iterator[Callable[[], str]]:
    # A pool of its own, or a second channel would silently go on over the first one's connection.
    with grpc.secure_channel(target, credentials, [("grpc.use_local_subchannel_pool", 1)]) as made:
        yield lambda: asked(made)


def test_mutual_tls_names_the_client(folder: Path) -> None:
    keeper = Gatekeeper(folder, Audit(folder / "audit.jsonl"))
    own = client_credentials((folder / "ca.crt").read_bytes(), load_identity(folder, "c1"))
    nobody = client_credentials((folder / "ca.crt").read_bytes())
    with server(LiveIdentity(folder, "server"), keeper, mutual=True) as target:
        with channel(target, own) as ask:
            assert ask() == "c1"
        with channel(target, nobody) as ask, pytest.raises(grpc.RpcError) as caught:
            ask()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_tls_and_a_token_name_the_client(folder: Path) -> None:
    keeper = Gatekeeper(folder, Audit(folder / "audit.jsonl"))
    credentials = client_credentials(
        (folder / "ca.crt").read_bytes(), token=access.add_token(folder, "phone")
    )
    with (
        server(LiveIdentity(folder, "server"), keeper, mutual=False) as target,
        channel(target, credentials) as ask,
    ):
        assert ask() == "phone"


def test_rotation_under_load_fails_no_call(folder: Path) -> None:
    """An open channel goes on; a new one meets the new certificate; neither sees an error."""
    said: list[str] = []
    live = LiveIdentity(folder, "server", said.append)
    keeper = Gatekeeper(folder, Audit(folder / "audit.jsonl"))
    own = client_credentials((folder / "ca.crt").read_bytes(), load_identity(folder, "c1"))
    first = live.current().certificate
    with server(live, keeper, mutual=True) as target, channel(target, own) as open_one:
        for _ in range(3):
            assert open_one() == "c1"
            certs.rotate(folder, "server")
            assert open_one() == "c1"
            with channel(target, own) as ask:
                assert ask() == "c1"
    assert live.current().certificate != first
    assert said == ["the certificate of server was read again: it had changed"] * 3


def test_a_client_of_a_rotated_authority_gets_in_without_a_restart(folder: Path) -> None:
    live = LiveIdentity(folder, "server")
    keeper = Gatekeeper(folder, Audit(folder / "audit.jsonl"))
    with server(live, keeper, mutual=True) as target:
        certs.rotate(folder, "ca")
        certs.issue(folder, "c2")
        old_and_new = (folder / "ca.crt").read_bytes()
        for name in ("c1", "c2"):
            with channel(target, client_credentials(old_and_new, load_identity(folder, name))) as ask:
                assert ask() == name


def test_a_bad_change_does_not_replace_what_works(folder: Path) -> None:
    said: list[str] = []
    live = LiveIdentity(folder, "server", said.append)
    before = live.current()
    certs.issue(folder, "other", role="server")
    (folder / "server.crt").write_bytes((folder / "other.crt").read_bytes())  # half a rotation
    assert live.current() is before and live.current() is before
    certs.rotate(folder, "other")
    certs.issue(folder, "server", role="server", days=1, now=datetime.now(UTC) - timedelta(days=3))
    assert live.current() is before
    assert len(said) == 2 and "do not belong together" in said[0] and "expired on" in said[1]


@pytest.mark.parametrize(("days", "told"), [(40, 0), (20, 1), (5, 1), (1, 1)])
def test_the_end_that_comes_near_is_told_once(folder: Path, days: int, told: int) -> None:
    said: list[str] = []
    certs.issue(folder, "server", role="server", days=days)
    live = LiveIdentity(folder, "server", said.append)
    live.current()
    assert len(said) == told
    assert all("server.crt expires in" in line and "muster certs rotate" in line for line in said)


def test_an_expired_identity_does_not_start(folder: Path) -> None:
    certs.issue(folder, "old", days=1, now=datetime.now(UTC) - timedelta(days=3))
    with pytest.raises(CertificateError, match=r"old\.crt expired on"):
        LiveIdentity(folder, "old")


def test_a_token_file_is_private_and_holds_one_token(tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.write_text("abc\n")
    place.chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        read_token(place)
    place.chmod(0o600)
    assert read_token(place) == "abc"
    place.write_text("two words")
    with pytest.raises(CertificateError, match="one token"):
        read_token(place)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_plaintext_is_for_this_machine(host: str) -> None:
    check_plaintext(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_plaintext_is_not_for_a_network(host: str) -> None:
    with pytest.raises(UserError, match="--insecure is for this machine only"):
        check_plaintext(host)

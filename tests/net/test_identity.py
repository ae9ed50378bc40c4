"""What is wrong with a certificate, in one sentence that names it and the date."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from muster.core.errors import CertificateError
from muster.net import certs
from muster.net.identity import (
    describe,
    expiry_warning,
    explain_server,
    fault_of,
    load_identity,
    read_certificates,
)

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A server that is valid from 9 to 20 January 2026."""
    certs.make_authority(tmp_path, now=NOW)
    hosts = ["fl.example.org", "*.lab.org", "10.0.0.7"]
    certs.issue(tmp_path, "server", role="server", hosts=hosts, days=10, now=NOW)
    return tmp_path


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (timedelta(days=-1, seconds=-1), "not valid before 2026-01-09 12:00 UTC"),
        (timedelta(days=10, seconds=1), "expired on 2026-01-20 12:00 UTC"),
    ],
)
def test_outside_its_days_the_sentence_names_the_date(folder: Path, after: timedelta, said: str) -> None:
    made = read_certificates(folder / "server.crt")[0]
    fault = fault_of(made, "server.crt", NOW + after)
    assert fault is not None and said in fault and "the certificate server.crt" in fault


@pytest.mark.parametrize("after", [timedelta(days=-1), timedelta(0), timedelta(days=10)])
def test_inside_its_days_it_is_good(folder: Path, after: timedelta) -> None:
    assert fault_of(read_certificates(folder / "server.crt")[0], "server.crt", NOW + after) is None


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("fl.example.org", True),
        ("FL.example.org", True),
        ("10.0.0.7", True),
        ("a.lab.org", True),
        ("b.a.lab.org", False),
        ("lab.org", False),
        ("example.org", False),
        ("10.0.0.8", False),
    ],
)
def test_a_certificate_is_for_the_hosts_it_names(folder: Path, host: str, good: bool) -> None:
    fault = fault_of(read_certificates(folder / "server.crt")[0], "server.crt", NOW, host)
    assert (fault is None) == good
    assert good or (f"not for {host}: issue it with --host {host}" in str(fault))


@pytest.mark.parametrize(
    ("left", "level", "when"),
    [
        (timedelta(days=31), None, ""),
        (timedelta(days=30), 30, "in 30 days"),
        (timedelta(days=7, hours=1), 30, "in 7 days"),
        (timedelta(days=7), 7, "in 7 days"),
        (timedelta(days=1, hours=5), 7, "in 1 day,"),
        (timedelta(hours=23), 1, "in 23 hours"),
        (timedelta(seconds=-1), None, ""),
    ],
)
def test_it_warns_30_7_and_1_days_ahead(folder: Path, left: timedelta, level: int | None, when: str) -> None:
    made = read_certificates(folder / "server.crt")[0]
    warning = expiry_warning(made, "server.crt", made.not_valid_after_utc - left)
    assert (warning and warning[0]) == level
    assert warning is None or (when in warning[1] and "2026-01-20" in warning[1])


def test_the_list_of_a_folder_says_what_is_wrong(folder: Path) -> None:
    rows = {row["file"]: row for row in describe(folder, NOW + timedelta(days=11))}
    assert "expired on 2026-01-20" in rows["server.crt"]["note"]
    assert rows["ca.crt"]["note"] == "" and rows["server.crt"]["role"] == "server"


def test_a_pair_that_does_not_belong_together_is_refused(folder: Path) -> None:
    certs.issue(folder, "other", now=NOW)
    (folder / "server.key").write_bytes((folder / "other.key").read_bytes())
    with pytest.raises(CertificateError, match=r"server\.key is not the key of .*server\.crt"):
        load_identity(folder, "server")


def test_a_key_that_everybody_can_read_is_refused(folder: Path) -> None:
    (folder / "server.key").chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        load_identity(folder, "server")


@pytest.mark.parametrize("file", ["server.crt", "server.key", "ca.crt"])
def test_a_damaged_or_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"nothing")
    with pytest.raises(CertificateError, match=file):
        load_identity(folder, "server")
    (folder / file).unlink()
    with pytest.raises(CertificateError, match=f"{file} cannot be read"):
        load_identity(folder, "server")


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Shows `server` of the folder to whoever connects, and wants a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            context.wrap_socket(connection, server_side=True).close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def explained(folder: Path, roots: Path) -> str | None:
    with tls_server(folder) as port:
        return explain_server("127.0.0.1", port, roots.read_bytes(), 5.0)


def test_what_a_server_shows_is_explained(tmp_path: Path) -> None:
    good, expired, other = tmp_path / "good", tmp_path / "expired", tmp_path / "other"
    certs.init(good)
    certs.init(other)
    assert explained(good, good / "ca.crt") is None
    assert "which ca.crt does not name" in str(explained(good, other / "ca.crt"))
    certs.make_authority(expired, now=datetime.now(UTC) - timedelta(days=10))
    then = datetime.now(UTC) - timedelta(days=5)
    certs.issue(expired, "server", role="server", hosts=["127.0.0.1"], days=2, now=then)
    fault = str(explained(expired, expired / "ca.crt"))
    assert f"expired on {then + timedelta(days=2):%Y-%m-%d}" in fault and "server at 127.0.0.1" in fault
    certs.issue(other, "server", role="server", hosts=["elsewhere.org"])
    assert "is for server, elsewhere.org, not for 127.0.0.1" in str(explained(other, other / "ca.crt"))


def test_of_a_server_that_is_away_or_ends_meanwhile_nothing_is_said(tmp_path: Path) -> None:
    """It may come back: whoever waits for it must not be told that its certificate is at fault."""
    certs.make_authority(tmp_path)
    roots = (tmp_path / "ca.crt").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        thread = threading.Thread(target=lambda: taken.accept()[0].close(), daemon=True)
        thread.start()
        assert explain_server("127.0.0.1", port, roots, 5.0) is None
        thread.join(5)
    assert explain_server("127.0.0.1", port, roots, 5.0) is None

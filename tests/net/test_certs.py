"""The authority and what it signs: keys stay where they were made, and nothing of a request is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from muster.core.errors import CertificateError
from muster.net import certs
from muster.net.identity import load_identity, name_and_role, read_certificates, sans_of

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.init(tmp_path / "ca", ["fl.example.org", "10.0.0.7"])
    return tmp_path / "ca"


def test_the_server_is_named_for_this_machine_and_the_hosts_asked_for(folder: Path) -> None:
    made = read_certificates(folder / "server.crt")[0]
    assert name_and_role(made) == ("server", "server")
    expected = {"server", "localhost", "127.0.0.1", "::1", "fl.example.org", "10.0.0.7"}
    assert set(sans_of(made)) == expected
    load_identity(folder, "server")


def test_keys_are_for_their_owner_alone(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.key")}
    assert modes == {"ca.key": 0o600, "server.key": 0o600}


def test_a_second_init_does_not_replace_an_authority(folder: Path) -> None:
    before = (folder / "ca.key").read_bytes()
    with pytest.raises(CertificateError, match="holds an authority already"):
        certs.init(folder)
    assert (folder / "ca.key").read_bytes() == before


def test_a_clients_key_never_leaves_it(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "client"
    csr = certs.make_request(home, "c1")
    made = certs.issue(folder, "c1", csr=csr.read_bytes())
    assert not (folder / "c1.key").exists()
    for file in (made, folder / "ca.crt"):
        (home / file.name).write_bytes(file.read_bytes())
    identity = load_identity(home, "c1")
    assert name_and_role(read_certificates(home / "c1.crt")[0]) == ("c1", "client")
    assert b"PRIVATE" not in csr.read_bytes() and b"PRIVATE" not in identity.certificate


def test_what_a_request_asks_for_beside_its_name_is_not_believed(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "c1"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "admin"),
        ]
    )
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("fl.example.org")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    place = certs.issue(folder, "c1", csr=asked.public_bytes(serialization.Encoding.PEM))
    made = read_certificates(place)[0]
    assert name_and_role(made) == ("c1", "client")
    assert sans_of(made) == ["c1"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_request_for_another_name_is_refused(folder: Path, tmp_path: Path) -> None:
    csr = certs.make_request(tmp_path / "client", "c1").read_bytes()
    with pytest.raises(CertificateError, match="asks for the name c1, not for c2"):
        certs.issue(folder, "c2", csr=csr)


@pytest.mark.parametrize("damaged", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"\x00" * 64])
def test_a_damaged_request_is_refused(folder: Path, damaged: bytes) -> None:
    with pytest.raises(CertificateError, match="the request for c1 is damaged"):
        certs.issue(folder, "c1", csr=damaged)


@pytest.mark.parametrize("name", ["", "../c1", "a/b", "ca", ".hidden", "x" * 64, "sp ace"])
def test_a_name_cannot_leave_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="cannot name an identity"):
        certs.issue(folder, name)


def test_an_unknown_role_is_refused(folder: Path) -> None:
    with pytest.raises(CertificateError, match="must be one of server, client, viewer, admin"):
        certs.issue(folder, "c1", role="root")


def test_signing_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="muster certs init"):
        certs.issue(tmp_path, "c1")


def test_validity_begins_a_day_early_and_ends_with_the_authority(tmp_path: Path) -> None:
    certs.make_authority(tmp_path, days=100, now=NOW)
    made = read_certificates(certs.issue(tmp_path, "c1", days=365, now=NOW))[0]
    assert made.not_valid_before_utc == NOW - timedelta(days=1)
    assert made.not_valid_after_utc == NOW + timedelta(days=100)


def test_rotating_gives_a_new_key_for_the_same_role_and_hosts(folder: Path) -> None:
    before, key = read_certificates(folder / "server.crt")[0], (folder / "server.key").read_bytes()
    certs.rotate(folder, "server")
    after = read_certificates(folder / "server.crt")[0]
    assert (folder / "server.key").read_bytes() != key
    assert after.serial_number != before.serial_number
    assert name_and_role(after) == name_and_role(before) and set(sans_of(after)) == set(sans_of(before))
    load_identity(folder, "server")
    assert sorted(p.name for p in folder.iterdir()) == ["ca.crt", "ca.key", "server.crt", "server.key"]


def test_a_key_that_is_elsewhere_is_renewed_there(folder: Path, tmp_path: Path) -> None:
    certs.issue(folder, "c1", csr=certs.make_request(tmp_path / "client", "c1").read_bytes())
    with pytest.raises(CertificateError, match="muster certs request c1"):
        certs.rotate(folder, "c1")


def test_after_the_authority_is_rotated_the_old_one_is_still_trusted(folder: Path) -> None:
    old = read_certificates(folder / "ca.crt")[0]
    certs.rotate(folder, "ca")
    new, kept = read_certificates(folder / "ca.crt")
    assert kept.serial_number == old.serial_number != new.serial_number
    read_certificates(folder / "server.crt")[0].verify_directly_issued_by(kept)
    read_certificates(certs.issue(folder, "c1"))[0].verify_directly_issued_by(new)


def test_an_expired_authority_signs_nothing_and_is_dropped_by_rotation(tmp_path: Path) -> None:
    certs.make_authority(tmp_path, days=1, now=NOW)
    with pytest.raises(CertificateError, match=r"expired on 2026-01-11 12:00 UTC.*certs rotate ca"):
        certs.issue(tmp_path, "c1", now=NOW + timedelta(days=2))
    certs.rotate(tmp_path, "ca", now=NOW + timedelta(days=2))
    assert len(read_certificates(tmp_path / "ca.crt")) == 1

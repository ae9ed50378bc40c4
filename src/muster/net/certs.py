"""Certificates of a deployment: its own authority, and keys that are made where they stay.

A folder holds `ca.crt` (trusted authorities, the newest first), `ca.key` (at the operator only), and per
name `NAME.key`, `NAME.csr`, `NAME.crt`. Keys never travel: a client makes its key and a request (CSR), the
operator signs the request. Of a request only the public key and the name are taken, never its extensions.
Keys are ECDSA P-256; validity begins a day early, so that a clock that is some hours off still joins.
"""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable

from muster.core.durable import make_folder, take_place
from muster.core.errors import CertificateError

from .identity import fault_of, name_and_role, pem_of, read_certificates, read_key, sans_of, utc_now

if TYPE_CHECKING:
    from cryptography import x509

ROLES = ("server", "client", "viewer", "admin")
CA = "ca"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_DAYS, CA_DAYS = 365, 3650
EARLY = timedelta(days=1)
"""How long before it is issued a certificate begins to be valid: the window for clocks that lag."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PRIVATE = 0o600


def checked_name(name: str) -> str:
    """`name`, which will be part of file names and of certificates.

    Raises:
        CertificateError: It holds more than letters, digits and `.`, `_`, `-`, or is the authority's.
    """
    if not _NAME.fullmatch(name) or name == CA:
        raise CertificateError(
            f"{name!r} cannot name an identity: use up to 63 letters, digits, '.', '_' and '-', "
            f"beginning with a letter or digit, and not {CA!r}"
        )
    return name


def init(folder: Path, hosts: Iterable[str] = (), now: datetime | None = None) -> None:
    """A new authority and the identity `server` for this machine and `hosts`.

    Raises:
        CertificateError: The folder holds an authority already, or cannot be written.
    """
    if (folder / "ca.key").exists():
        raise CertificateError(
            f"{folder} holds an authority already; `muster certs rotate ca` renews it, `muster certs issue` "
            "uses it"
        )
    make_authority(folder, now=now)
    issue(folder, "server", role="server", hosts=[*LOOPBACK, *hosts], now=now)


def make_authority(folder: Path, days: int = CA_DAYS, now: datetime | None = None) -> None:
    """A new authority in `folder`; one that is there is kept as trusted, behind the new one.

    Raises:
        CertificateError: The folder cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = now or utc_now()
    key = _new_key()
    name = _subject(f"Muster authority {now:%Y-%m-%d %H:%M:%S}", "authority")
    usage = _key_usage(signs_certificates=True)
    made = (
        _builder(name, name, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    old = (
        [c for c in read_certificates(folder / "ca.crt") if now <= c.not_valid_after_utc]
        if (folder / "ca.crt").exists()
        else []
    )
    write_file(folder / "ca.key", _key_pem(key), _PRIVATE)
    write_file(folder / "ca.crt", b"".join(pem_of(c) for c in [made, *old]), 0o644)


def make_request(folder: Path, name: str) -> Path:
    """A request for a certificate, with the key of `name` in `folder`, which is made if it is missing.

    Returns:
        The request, `NAME.csr`: the one file to take to the operator.

    Raises:
        CertificateError: The name is not allowed, or the key there cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    checked_name(name)
    place = folder / f"{name}.key"
    if not place.exists():
        write_file(place, _key_pem(_new_key()), _PRIVATE)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(name))
        .sign(read_key(place), hashes.SHA256())
    )
    csr = folder / f"{name}.csr"
    write_file(csr, request.public_bytes(Encoding.PEM), 0o644)
    return csr


def issue(
    folder: Path,
    name: str,
    *,
    role: str = "client",
    hosts: Iterable[str] = (),
    csr: bytes | None = None,
    days: int = DEFAULT_DAYS,
    now: datetime | None = None,
) -> Path:
    """Signs a certificate for `name` with the authority in `folder`.

    Args:
        folder: Where the authority is, and where `NAME.crt` goes.
        name: The identity; it becomes the common name and a SAN.
        role: server, client, viewer or admin; it becomes the organisational unit.
        hosts: Further names and addresses under which a server is reached.
        csr: The request (PEM) of a key made elsewhere. None: `NAME.key` in `folder`, made if missing.
        days: How long it is valid.
        now: When; default the present.

    Raises:
        CertificateError: No authority, a role or name that is not allowed, a request that is damaged or
            asks for another name, or an authority that would expire first.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    checked_name(name)
    if role not in ROLES:
        raise CertificateError(f"the role of {name} is {role!r}, but must be one of {', '.join(ROLES)}")
    now = now or utc_now()
    authority, key = _authority(folder)
    if trouble := fault_of(authority, f"{folder / 'ca.crt'}", now):
        raise CertificateError(f"{trouble}; `muster certs rotate ca` makes a new one")
    if csr is None:
        csr = make_request(folder, name).read_bytes()
        (folder / f"{name}.csr").unlink()
    asked = _checked_request(csr, name)
    days = min(days, (authority.not_valid_after_utc - now).days)
    purpose = [Usage.SERVER_AUTH] if role == "server" else [Usage.CLIENT_AUTH]
    made = (
        _builder(_subject(name, role), authority.subject, asked.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purpose), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(h) for h in dict.fromkeys([name, *hosts])]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    place = folder / f"{name}.crt"
    write_file(place, pem_of(made), 0o644)
    return place


def rotate(folder: Path, name: str, days: int = DEFAULT_DAYS, now: datetime | None = None) -> Path:
    """A new key and certificate for `name`, with the role and hosts of the one it has; `ca`: a new authority.

    The old authority stays trusted until it expires; identities it signed go on working.

    Raises:
        CertificateError: There is none of that name, or its key is elsewhere (then it asks again by CSR).
    """
    if name == CA:
        _authority(folder)
        make_authority(folder, now=now)
        return folder / "ca.crt"
    place = folder / f"{checked_name(name)}.crt"
    old = read_certificates(place)[0]
    key = place.with_suffix(".key")
    if not key.exists():
        raise CertificateError(
            f"the key of {name} is not in {folder}: run `muster certs request {name}` where it is, and sign "
            f"its request with `muster certs issue {name} --csr FILE`"
        )
    # The new pair is made aside and the certificate takes its place last: a reader that meets the new key
    # with the old certificate sees that they do not match and keeps what it has.
    aside = folder / f".{name}.next"
    aside.mkdir(mode=0o700, exist_ok=True)
    try:
        csr = make_request(aside, name)
        hosts = [host for host in sans_of(old) if host != name]
        _, role = name_and_role(old)
        request = csr.read_bytes()
        fresh = (aside / f"{name}.key").read_bytes()
        write_file(key, fresh, _PRIVATE)
        return issue(folder, name, role=role, hosts=hosts, csr=request, days=days, now=now)
    finally:
        for file in aside.iterdir():
            file.unlink()
        aside.rmdir()


def _authority(folder: Path) -> tuple[x509.Certificate, Any]:
    if not (folder / "ca.key").exists():
        raise CertificateError(f"{folder} holds no authority (ca.key): make one with `muster certs init`")
    return read_certificates(folder / "ca.crt")[0], read_key(folder / "ca.key")


def _checked_request(csr: bytes, name: str) -> x509.CertificateSigningRequest:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.x509.oid import NameOID

    try:
        asked = x509.load_pem_x509_csr(csr)
        genuine = asked.is_signature_valid
    except Exception as error:  # a hostile file may raise more than ValueError
        raise CertificateError(f"the request for {name} is damaged ({error})") from error
    key = asked.public_key()
    if not genuine or not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise CertificateError(
            f"the request for {name} is not signed by a P-256 key of its own; make it with "
            f"`muster certs request {name}`"
        )
    found = [str(a.value) for a in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if found != [name]:
        raise CertificateError(f"the request asks for the name {', '.join(found) or 'none'}, not for {name}")
    return asked


def _builder(subject: Any, issuer: Any, public: Any, days: int, now: datetime) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(name: str, role: str | None = None) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if role is not None:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role))
    return x509.Name(parts)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _san(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise CertificateError(f"{host!r} is no host name or address: {error}") from error


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Writes aside with `mode` from the first byte on, then takes the place: never half, never readable."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        make_folder(path.parent)
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        take_place(aside, path)
    except OSError as error:
        raise CertificateError(f"{path} cannot be written: {error.strerror}") from error

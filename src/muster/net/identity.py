"""What an identity is, how it is read, and one sentence on what is wrong with a certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import CertificateError

if TYPE_CHECKING:
    from cryptography import x509

WARN_DAYS = (1, 7, 30)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key and the authorities it trusts, all PEM: what a TLS end needs."""

    certificate: bytes
    key: bytes
    roots: bytes


def utc_now() -> datetime:
    """Certificates speak of the time of day in UTC; nothing else in a deployment does."""
    return datetime.now(UTC)


def load_identity(folder: Path, name: str) -> Identity:
    """The identity `name` in `folder`.

    Raises:
        CertificateError: A file is missing, damaged or readable by others, or key and certificate do not
            belong together.
    """
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    chain = read_file(certificate)
    if public_key_of(read_key(key)) != public_key_of(parse_certificates(chain, str(certificate))[0]):
        raise CertificateError(f"{key} is not the key of {certificate}: they do not belong together")
    roots = b"".join(pem_of(c) for c in read_certificates(folder / "ca.crt"))
    return Identity(chain, key.read_bytes(), roots)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one.

    Raises:
        CertificateError: The file is missing or holds none.
    """
    return parse_certificates(read_file(path), str(path))


def parse_certificates(pem: bytes, where: str) -> list[x509.Certificate]:
    """The same of PEM bytes; `where` is how the sentence of an error calls them."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(f"{where} holds no certificate in PEM form ({error})") from error


def name_and_role(certificate: x509.Certificate) -> tuple[str, str]:
    """The identity's name and role as its authority signed them; the role is "" where there is none."""
    from cryptography.x509.oid import NameOID

    def only(oid: Any) -> str:
        found = certificate.subject.get_attributes_for_oid(oid)
        return str(found[0].value) if found else ""

    return only(NameOID.COMMON_NAME), only(NameOID.ORGANIZATIONAL_UNIT_NAME)


def sans_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is valid for."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def fault_of(
    certificate: x509.Certificate, called: str, now: datetime | None = None, host: str | None = None
) -> str | None:
    """One sentence on why the certificate cannot be used now, or for `host`; None if it can."""
    now = now or utc_now()
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        return f"the certificate {called} expired on {_date(last)}; this machine's clock says {_date(now)}"
    if now < first:
        return (
            f"the certificate {called} is not valid before {_date(first)}, and this machine's clock says "
            f"{_date(now)}: set the clock"
        )
    if host is not None and not _covers(sans_of(certificate), host):
        named = ", ".join(sans_of(certificate)) or "no host"
        return (
            f"the certificate {called} is for {named}, not for {host}: "
            f"issue it with --host {host}, or call the server by one of its names"
        )
    return None


def expiry_warning(
    certificate: x509.Certificate, called: str, now: datetime | None = None
) -> tuple[int, str] | None:
    """(30, 7 or 1, a sentence) when so few days are left, None before; after the end it is a fault."""
    left = certificate.not_valid_after_utc - (now or utc_now())
    for days in WARN_DAYS:
        if timedelta(0) <= left <= timedelta(days=days):
            when = f"in {left.days} days" if left >= timedelta(days=2) else f"in {left.seconds // 3600} hours"
            if timedelta(days=1) <= left < timedelta(days=2):
                when = "in 1 day"
            text = f"the certificate {called} expires {when}, on {_date(certificate.not_valid_after_utc)}"
            return days, f"{text}: renew it with `muster certs rotate` or `muster certs request`"
    return None


def describe(folder: Path, now: datetime | None = None) -> list[dict[str, str]]:
    """The certificates in `folder` by name: role, until when, and a note on what is wrong or soon will be.

    Raises:
        CertificateError: There is none, or one is damaged.
    """
    rows = []
    for place in sorted(folder.glob("*.crt")):
        certificate = read_certificates(place)[0]
        name, role = name_and_role(certificate)
        warning = expiry_warning(certificate, str(place), now)
        note = fault_of(certificate, str(place), now) or (warning[1] if warning else "")
        until = _date(certificate.not_valid_after_utc)
        rows.append({"name": name, "role": role, "until": until, "file": place.name, "note": note})
    if not rows:
        raise CertificateError(f"{folder} holds no certificate: make an authority with `muster certs init`")
    return rows


def explain_server(host: str, port: int, roots: bytes, secs: float) -> str | None:
    """What is wrong with the certificate of the server at `host:port`, as one sentence.

    gRPC says only that a handshake failed. This one looks at the certificate that the server shows.

    Args:
        host: The server.
        port: Its port.
        roots: The authorities (PEM) that are trusted.
        secs: How long the connection, and the handshake, may take: a client's `deploy.call_secs`.

    Returns:
        None if it is good, or if nobody is reached in time: a server that is away may come back.
    """
    import socket

    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # looked at below, never used
    where = f"of the server at {host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=secs) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
        return None
    except ssl.SSLError as error:
        return f"the server at {host}:{port} does not speak TLS ({error.reason or error})"
    except OSError:
        return None
    if not any(_signed_by(shown, root) for root in parse_certificates(roots, "ca.crt")):
        return (
            f"the certificate {where} was signed by {shown.issuer.rfc4514_string()}, which ca.crt does not "
            "name: take the ca.crt of that server's operator"
        )
    return fault_of(shown, where, host=host)


def _signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _covers(sans: list[str], host: str) -> bool:
    """As TLS clients judge: an address must be named as such, a name exactly or by a leading `*.`."""
    host = host.lower().strip("[]")
    wild = "*." + host.partition(".")[2]
    return any(san.lower() in (host, wild) for san in sans)


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate in PEM form."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def public_key_of(holder: Any) -> bytes:
    """The public key (DER) of a certificate or private key, to be compared."""
    from cryptography.hazmat.primitives import serialization as s

    return bytes(holder.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo))


def read_key(path: Path) -> Any:
    """A private key (PEM, no password).

    Raises:
        CertificateError: It is missing, damaged, or every user of the machine could read it.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_file(path)
    if path.stat().st_mode & 0o007:
        raise CertificateError(f"{path} can be read by every user of this machine: run `chmod 600 {path}`")
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path} holds no private key in PEM form without a password") from error


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        CertificateError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from error


def _date(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"

"""gRPC credentials of servers and clients: mutual TLS, or TLS and a token, read again when files change."""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Callable, cast

from muster.core.errors import CertificateError, UserError

from .identity import Identity, expiry_warning, fault_of, load_identity, parse_certificates

if TYPE_CHECKING:
    import grpc


class LiveIdentity:
    """An identity whose files are looked at again at every use, so that a rotated one takes over by itself.

    What is damaged, or half written, or expired while the old one is not, does not replace what works.
    That it will expire is said 30, 7 and 1 days ahead.

    Args:
        folder: The certificates' folder.
        name: The identity's name.
        say: Told once about every new pair, every one that is refused, and the end that comes near.

    Raises:
        CertificateError: The first pair is missing, damaged, expired or not yet valid.
    """

    def __init__(self, folder: Path, name: str, say: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._name, self._say, self._lock = folder, name, say, threading.Lock()
        self._stamp, self._warned = self._look(), 0
        self._identity = self._load()
        self._warn()

    def current(self) -> Identity:
        """The newest pair that works."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._identity = self._load()
                    self._say(f"the certificate of {self._name} was read again: it had changed")
                except CertificateError as error:
                    self._say(f"the changed certificate of {self._name} is not used: {error}")
            self._warn()
            return self._identity

    def _warn(self) -> None:
        days, text = expiry_warning(self._certificate, str(self.files()[0])) or (0, "")
        if days and days != self._warned:
            self._say(text)
        self._warned = days

    def files(self) -> tuple[Path, Path]:
        """Certificate and key, for those who want files."""
        return self._folder / f"{self._name}.crt", self._folder / f"{self._name}.key"

    def _load(self) -> Identity:
        identity, where = load_identity(self._folder, self._name), str(self.files()[0])
        certificate = parse_certificates(identity.certificate, where)[0]
        if trouble := fault_of(certificate, where):
            raise CertificateError(trouble)
        self._certificate = certificate
        return identity

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        def stamp(file: str) -> tuple[int, int] | None:
            try:
                facts = (self._folder / file).stat()
            except OSError:
                return None
            return facts.st_mtime_ns, facts.st_ino

        return tuple(stamp(file) for file in (f"{self._name}.crt", f"{self._name}.key", "ca.crt"))


def server_credentials(live: LiveIdentity, *, mutual: bool) -> grpc.ServerCredentials:
    """TLS for a server; new connections see a rotated certificate, those that are open go on.

    Args:
        live: The server's identity.
        mutual: Whether clients must show a certificate; else the caller must ask for a token.
    """
    import grpc

    sent: list[Identity] = [live.current()]

    def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], identity.roots if mutual else None
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        identity = live.current()
        if identity is sent[0]:
            return None  # as before
        sent[0] = identity
        return configuration(identity)

    # The stubs do not know that None means "as before"; gRPC's documentation does.
    asked = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(configuration(sent[0]), asked, mutual)


def client_credentials(
    roots: bytes, identity: Identity | None = None, token: str | None = None
) -> grpc.ChannelCredentials:
    """TLS for a client, which shows `identity`, or sends `token` with every call.

    Args:
        roots: The authorities (ca.crt) that the server's certificate must come from.
        identity: For mutual TLS.
        token: For servers that ask for tokens; it travels encrypted only.
    """
    import grpc

    if identity is not None:
        return grpc.ssl_channel_credentials(roots, identity.key, identity.certificate)
    secure = grpc.ssl_channel_credentials(roots)
    if token is None:
        return secure
    return grpc.composite_channel_credentials(secure, grpc.access_token_call_credentials(token))


def read_token(path: Path) -> str:
    """The token in a file: never on a command line, where every user of the machine can read it.

    Raises:
        CertificateError: The file is missing, holds no token, or every user could read it.
    """
    try:
        text, mode = path.read_text("utf-8").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(f"{path} cannot be read: {error}") from error
    if mode & 0o007:
        raise CertificateError(f"{path} can be read by every user of this machine: run `chmod 600 {path}`")
    if not text or len(text.split()) != 1 or not text.isascii():
        raise CertificateError(f"{path} must hold one token, as `muster certs issue --token` printed it")
    return text


def check_plaintext(host: str) -> None:
    """Lets pass loopback addresses only: `--insecure` must never be seen by a network.

    Raises:
        UserError: `host` is another machine's address, or all addresses of this one.
    """
    try:
        inside = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise UserError(
            f"--insecure is for this machine only (127.0.0.1, ::1, localhost), not for {host}: make "
            "certificates with `muster certs init`, or tunnel through ssh"
        )

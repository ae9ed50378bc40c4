"""Who is calling, and may it? Roles of certificates and tokens, the audit log, a limit on failed attempts.

`access.json` in the certificates' folder holds hashes of tokens, never tokens, and who was revoked
when. It is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping

from muster.core.errors import AccessError, CertificateError

from .certs import DEFAULT_DAYS, EARLY, ROLES, checked_name, write_file
from .identity import fault_of, name_and_role, parse_certificates, utc_now

ACCESS = "access.json"
MAX_FAILED, WINDOW_SECS, MAX_ADDRESSES = 10, 60.0, 4096
_MAX_TOKEN = 200


@dataclass(frozen=True)
class Peer:
    """Who called: a name that its certificate or token proves, its role, and its address without port."""

    name: str
    role: str
    address: str


def add_token(folder: Path, name: str, role: str = "client", days: int = DEFAULT_DAYS) -> str:
    """A new token for `name`; only its hash is kept, so this is the one time that it can be seen.

    Raises:
        CertificateError: The name or role is not allowed, or access.json is damaged.
    """
    checked_name(name)
    if role not in ROLES[1:]:
        raise CertificateError(f"the role of {name} is {role!r}, but must be one of {', '.join(ROLES[1:])}")
    token = secrets.token_urlsafe(32)
    body = _read_access(folder)
    until = int(time.time()) + days * 86400
    body["tokens"].append({"name": name, "role": role, "sha256": _hash(token), "until": until})
    _write_access(folder, body)
    return token


def revoke(folder: Path, name: str, now: datetime | None = None) -> None:
    """Ends all tokens of `name`, and all its certificates that were issued until now.

    Raises:
        CertificateError: `folder` knows no such name, or a file is damaged.
    """
    body = _read_access(folder)
    kept = [entry for entry in body["tokens"] if entry["name"] != checked_name(name)]
    if len(kept) == len(body["tokens"]) and not (folder / f"{name}.crt").exists():
        raise CertificateError(f"{folder} has issued no token or certificate to {name}: nothing to revoke")
    body["tokens"] = kept
    body["revoked"][name] = int((now or utc_now()).timestamp())
    _write_access(folder, body)


class Audit:
    """An append-only file of one JSON object per line: when, who, from where, what, and whether it might.

    A full disk does not stop the server: it is told once on stderr.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._path, self._now, self._lock, self._told = path, now, threading.Lock(), False

    def line(self, peer: Peer, what: str, *, allowed: bool, why: str = "") -> None:
        """Adds a line."""
        body: dict[str, Any] = {"time": self._now().isoformat(timespec="milliseconds"), "name": peer.name}
        body |= {"role": peer.role, "address": peer.address, "what": what, "allowed": allowed}
        line = json.dumps(body | ({"why": why} if why else {})) + "\n"
        with self._lock:
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                with os.fdopen(handle, "ab") as file:
                    file.write(line.encode())
            except OSError as error:
                if not self._told:
                    print(f"muster: {self._path} cannot be written: {error.strerror}", file=sys.stderr)
                self._told = True


class Attempts:
    """Counts failed attempts by address, at most `MAX_FAILED` in `WINDOW_SECS`; memory is bounded.

    Only failing is limited: who shows a good certificate or token is let in, whatever its neighbours
    behind the same address do. (Tokens have 256 bits: what is limited is noise, not guessing.)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str) -> float:
        """Counts one; returns 0, or after how many seconds the address may fail again."""
        with self._lock:
            now = self._clock()
            since, num = self._failed.pop(address, (now, 0))
            if now - since >= WINDOW_SECS:
                since, num = now, 0
            self._failed[address] = (since, num + 1)
            while len(self._failed) > MAX_ADDRESSES:
                self._failed.popitem(last=False)
            return 0.0 if num < MAX_FAILED else since + WINDOW_SECS - now


class Gatekeeper:
    """Judges callers of a server: by certificate where there is one, else by token.

    Args:
        folder: The certificates' folder with access.json; None with `--insecure`: everybody is what they
            say, on loopback only.
        audit: Where refusals and `admit`s are written.
    """

    def __init__(self, folder: Path | None, audit: Audit, attempts: Attempts | None = None) -> None:
        self._folder, self._audit, self._attempts = folder, audit, attempts or Attempts()
        self._stamp: object = None
        self._access: dict[str, Any] = {"tokens": [], "revoked": {}}

    def admit(
        self,
        auth: Mapping[str, Iterable[bytes]],
        metadata: Iterable[tuple[str, str | bytes]],
        address: str,
        what: str,
        roles: Iterable[str],
    ) -> Peer:
        """The caller of the method `what`, which is for `roles`; an admin may do everything.

        Args:
            auth: gRPC's `context.auth_context()`.
            metadata: The call's metadata: `authorization: Bearer TOKEN`, and with --insecure `name`.
            address: gRPC's `context.peer()`, or a host.
            what: The method's name, for the audit log.
            roles: Who may call it.

        Raises:
            AccessError: With the gRPC status and the sentence for the caller.
        """
        where, given = address_of(address), dict(metadata)
        peer = Peer("", "", where)
        try:
            peer = self._peer(auth, given, where)
            if peer.role != "admin" and peer.role not in roles:
                allowed = ", ".join(dict.fromkeys([*roles, "admin"]))
                raise AccessError(
                    "PERMISSION_DENIED", f"{peer.name} has the role {peer.role}; {what} is for {allowed}"
                )
        except AccessError as denied:
            wait = self._attempts.failed(where)
            if wait > 0:
                text = f"too many refused calls from {where}: try again in {wait:.0f} s"
                raise AccessError("RESOURCE_EXHAUSTED", text) from denied
            self._audit.line(peer, what, allowed=False, why=str(denied.__cause__ or denied))
            raise
        return peer

    def _peer(
        self, auth: Mapping[str, Iterable[bytes]], given: Mapping[str, str | bytes], where: str
    ) -> Peer:
        if self._folder is None:
            return Peer(str(given.get("name", "")), "admin", where)
        self._refresh()
        shown = b"".join(auth.get("x509_pem_cert", ()))
        if shown:
            certificate = parse_certificates(shown, "shown by the caller")[0]
            name, role = name_and_role(certificate)
            issued = (certificate.not_valid_before_utc + EARLY).timestamp()
            if issued <= self._access["revoked"].get(name, 0):
                raise AccessError(
                    "UNAUTHENTICATED", f"the certificate of {name} was revoked; ask for a new one"
                )
            if trouble := fault_of(certificate, f"of {name}"):
                raise AccessError("UNAUTHENTICATED", trouble)  # a connection may outlive its certificate
            return Peer(name, role, where)
        return self._by_token(str(given.get("authorization", "")), where)

    def _by_token(self, header: str, where: str) -> Peer:
        kind, _, token = header.partition(" ")
        if kind != "Bearer" or not token or len(token) > _MAX_TOKEN:
            raise AccessError("UNAUTHENTICATED", "no certificate and no token: give --certs or --token-file")
        asked, found = _hash(token), None
        for entry in self._access["tokens"]:  # all of them, equally long: time tells nothing
            if hmac.compare_digest(entry["sha256"], asked):
                found = entry
        if found is None:
            raise AccessError("UNAUTHENTICATED", "the token is not known to this server, or was revoked")
        if time.time() > found["until"]:
            ended = time.strftime("%Y-%m-%d", time.gmtime(found["until"]))
            raise AccessError("UNAUTHENTICATED", f"the token of {found['name']} expired on {ended}")
        return Peer(found["name"], found["role"], where)

    def _refresh(self) -> None:
        assert self._folder is not None
        try:
            facts = (self._folder / ACCESS).stat()
            stamp: object = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        except OSError:
            stamp = None
        if stamp != self._stamp:
            try:
                self._access, self._stamp = _read_access(self._folder), stamp
            except CertificateError as error:
                text = f"the server's {ACCESS} is damaged: its operator finds in the audit log what to do"
                raise AccessError("UNAVAILABLE", text) from error


def same_secret(left: str, right: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far they agree."""
    return hmac.compare_digest(_hash(left), _hash(right))


def address_of(peer: str) -> str:
    """The host of gRPC's `ipv4:10.0.0.1:5000` or `ipv6:[::1]:5000`, else the text as it is."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read_access(folder: Path) -> dict[str, Any]:
    place = folder / ACCESS
    if not place.exists():
        return {"tokens": [], "revoked": {}}
    try:
        body = json.loads(place.read_bytes())
        tokens = [{k: entry[k] for k in ("name", "role", "sha256", "until")} for entry in body["tokens"]]
        revoked = {str(name): int(when) for name, when in body["revoked"].items()}
        return {"tokens": tokens, "revoked": revoked}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CertificateError(
            f"{place} is damaged ({error!r}): take it from a copy, or remove it and issue tokens again"
        ) from error


def _write_access(folder: Path, body: Mapping[str, Any]) -> None:
    write_file(folder / ACCESS, (json.dumps(body, indent=2) + "\n").encode(), 0o600)

"""A client's end of the connection: calls that are made again, transfers that go on where they broke."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from muster.core.errors import MusterError, UserError

from .rpc import LEAST_PIECE, OPTIONS, PIECE, Stub, pb
from .settings import Deploy

_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.ALREADY_EXISTS,
}
"""Asking again would not help."""

SYNCED_PER_SEC = 10e6
"""Bytes that any server brings to its disk in a second: it answers an upload when it has."""

_RANDOM = secrets.SystemRandom()


class RejoinError(Exception):
    """The server does not know this session any more: join again."""


class GoneError(Exception):
    """The task is over: its model cannot be had any more."""


class _StalledError(Exception):
    """Nothing has moved in a transfer for `stall_secs`."""


_BROKEN = (grpc.RpcError, grpc.FutureCancelledError, _StalledError)
"""What a call or a transfer may break off with."""


@dataclass
class Patience:
    """The time-outs of a client, as the server told them when it joined."""

    call_secs: float = Deploy.call_secs
    poll_secs: float = Deploy.poll_secs
    stall_secs: float = Deploy.stall_secs
    retry_secs: float = Deploy.retry_secs
    give_up_secs: float = Deploy.give_up_secs

    def limit(self, waits: bool) -> tuple[float, str]:
        """How long a call may take, and how that is said; `waits`: its answer may take `poll_secs`."""
        if waits:
            secs = self.poll_secs + self.call_secs
            return secs, f"deploy.poll_secs + deploy.call_secs = {secs:g} s"
        return self.call_secs, f"deploy.call_secs = {self.call_secs:g} s"


class Link:
    """A server, reached again and again.

    Args:
        address: HOST:PORT.
        credentials: Of a secure channel; None: plaintext.
        name: The client's; shown where there is no certificate or token.
        say: Told when the server cannot be reached, and when it can again.
        explain: What is wrong with the server's certificate, if anything; asked when it is not reached, and
            told how many seconds it may take.

    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        name: str,
        say: Callable[[str], None],
        explain: Callable[[float], str | None] = lambda secs: None,
    ) -> None:
        self.address, self.patience = address, Patience()
        self.num_resent, self.num_breaks = 0, 0
        """Bytes that were sent again, and calls that broke off."""
        self._piece = PIECE
        """Bytes of one message of a transfer: what has come of a message when a connection breaks is lost, so
        a connection that breaks often gets smaller ones."""
        self._say, self._explain, self._metadata = say, explain, (("name", name),)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, OPTIONS)
        self._stub = Stub(self._channel)

    def call(self, method: str, request: Any, *, waits: bool = False) -> Any:
        """One message for another; tried again while the server is not reached.

        `waits`: the server may take `poll_secs` to answer.

        Raises:
            RejoinError: The session is not known.
            UserError: The server refuses, or has not been reached for `give_up_secs`.
        """
        limit, said = self.patience.limit(waits)
        return self._patiently(
            lambda: getattr(self._stub, method)(request, timeout=limit, metadata=self._metadata), limit=said
        )

    def once(self, method: str, request: Any) -> Any:
        """One call that is not made again. Raises grpc.RpcError."""
        return getattr(self._stub, method)(request, timeout=self.patience.call_secs, metadata=self._metadata)

    def _patiently(
        self, attempt: Callable[[], Any], moved: Callable[[], int] = lambda: 0, limit: str = ""
    ) -> Any:
        """Calls `attempt` until it works, with waits that double and are jittered.

        `moved` are bytes that have got through so far, and answers to wait: while there are more each time,
        nobody gives up. `limit` says how long an answer is waited for, if not for `call_secs`.
        """
        wait, until, told = 0.1, time.monotonic() + self.patience.give_up_secs, False
        before = moved()
        while True:
            try:
                done = attempt()
            except _BROKEN as error:
                self.num_breaks += 1
                code, details = grpc.StatusCode.CANCELLED, str(error)
                if isinstance(error, grpc.Call):
                    code, details = error.code(), error.details() or ""
                if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                    details = f"no answer within {limit or self.patience.limit(waits=False)[1]}"
                if code == grpc.StatusCode.FAILED_PRECONDITION:
                    raise RejoinError from error
                if code == grpc.StatusCode.NOT_FOUND:
                    raise GoneError from error
                if code in _FINAL or (
                    code == grpc.StatusCode.RESOURCE_EXHAUSTED and "cannot join" in details
                ):
                    raise UserError(f"{self.address} refuses: {details}") from error
                if not told and (wrong := self._explain(self.patience.call_secs)):
                    raise UserError(wrong) from error
                if (now := moved()) > before:
                    before, wait, until = now, 0.1, time.monotonic() + self.patience.give_up_secs
                if time.monotonic() > until:
                    raise UserError(
                        f"{self.address} could not be reached for deploy.give_up_secs = "
                        f"{self.patience.give_up_secs:g} s ({details})"
                    ) from error
                if not told:
                    self._say(f"{self.address} is not reached ({code.name}: {details:.200}); trying again")
                told = True
            else:
                if told:
                    self._say(f"{self.address} is reached again")
                return done
            time.sleep(wait * _RANDOM.uniform(0.5, 1.5))
            wait = min(2 * wait, self.patience.retry_secs)

    def download(self, caller: Any, task: Any, path: Path) -> None:
        """Gets a task's model into a file; after a break it goes on where it was.

        Raises:
            GoneError: The task is over.
            RejoinError, UserError: As `call`.
        """
        with path.open("wb") as file:

            def attempt() -> None:
                at, piece = file.tell(), self._piece
                request = pb.DownloadRequest(caller=caller, ticket=task.ticket, offset=at, piece=piece)
                call = self._stub.Download(request, metadata=self._metadata)
                with self._fitting(), _Watchdog(self.patience.stall_secs).over(call) as watch:
                    for chunk in call:
                        file.write(chunk.data)
                        watch.moved()

            while True:
                self._patiently(attempt, file.tell)
                file.flush()
                if file.tell() == task.model_bytes and _sha256(path) == task.model_sha256:
                    return
                file.seek(0)  # damaged on the way, which TCP all but excludes
                file.truncate()

    def upload(self, caller: Any, task: Any, path: Path, report: Any) -> Any:
        """Sends an update from a file; after a break it goes on where the server is. Returns UploadReply.

        Raises:
            RejoinError, UserError: As `call`.
        """
        total, sha256 = path.stat().st_size, _sha256(path)
        sent = held = num_queued = 0

        def attempt() -> Any:
            nonlocal sent, held, num_queued
            asked = pb.HeldRequest(caller=caller, ticket=task.ticket, nonce=task.nonce)
            while (answer := self.once("Held", asked)).queued:
                num_queued += 1
            offset = held = min(answer.offset, total)
            self.num_resent += max(0, sent - offset)
            head = pb.UploadHead(
                caller=caller,
                ticket=task.ticket,
                nonce=task.nonce,
                offset=offset,
                total_bytes=total,
                sha256=sha256,
                report=report,
            )
            sent, piece = offset, self._piece
            watch = _Watchdog(self.patience.stall_secs)

            def parts() -> Iterator[Any]:
                nonlocal sent
                yield pb.UploadPart(head=head)
                with path.open("rb") as file:
                    file.seek(offset)
                    while data := file.read(piece):
                        yield pb.UploadPart(data=data)
                        sent += len(data)
                        watch.moved()
                watch.moved(total / SYNCED_PER_SEC)  # the server has yet to bring it to its disk and check it

            call = self._stub.Upload.future(parts(), metadata=self._metadata)
            with self._fitting(), watch.over(call):
                return call.result()

        while True:
            reply = self._patiently(attempt, lambda: held + num_queued)
            if reply.status != "damaged":
                return reply
            sent = 0

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """A transfer: the messages of the next are half as large if it breaks, else twice."""
        try:
            yield
        except _BROKEN:
            self._piece = max(self._piece // 2, LEAST_PIECE)
            raise
        self._piece = min(2 * self._piece, PIECE)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


class _Watchdog:
    """Cancels a transfer in which nothing has moved for `secs`, and says so by _StalledError."""

    def __init__(self, secs: float) -> None:
        self._secs, self._last, self._over = secs, time.monotonic(), threading.Event()
        self._call: Any = None
        self._stalled = False

    def over(self, call: Any) -> _Watchdog:
        """Watches over this call, while the block lasts."""
        self._call = call
        return self

    def moved(self, more_secs: float = 0.0) -> None:
        """Something has; what moves next may take `more_secs` longer."""
        self._last = time.monotonic() + more_secs

    def __enter__(self) -> _Watchdog:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        if self._stalled and isinstance(error, _BROKEN):
            raise _StalledError(f"nothing moved for deploy.stall_secs = {self._secs:g} s") from error

    def _watch(self) -> None:
        while not self._over.wait(max(0.01, self._last + self._secs - time.monotonic())):
            if time.monotonic() - self._last >= self._secs:
                self._stalled = True
                self._call.cancel()
                return


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parsed(text: str, what: str) -> Any:
    """JSON that the server sent.

    Raises:
        MusterError: It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MusterError(f"the server sent a {what} that is no JSON ({error})") from error

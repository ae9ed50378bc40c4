"""A worker's side of the state server: one connection that is kept, and answers as `Message`."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path

from muster.core.errors import AccessError, UserError

from .settings import Deploy
from .state_messages import Action, Kind, Message, Status, decode
from .state_table import StaleError


class StateClient:
    """Speaks for one worker.

    Args:
        host: The state server.
        port: Its port.
        rank: Which worker this is.
        roots: The authorities (PEM) of its certificate; None: plaintext, which it takes on loopback only.
        token: What it asks for, unless it is insecure,
        identity: or it takes a certificate: its file, and that of its key.
        call_secs: How long one answer may take, as `deploy.call_secs` of a job; a question is asked twice.
    """

    def __init__(
        self,
        host: str,
        port: int,
        rank: int,
        *,
        roots: bytes | None = None,
        token: str | None = None,
        identity: tuple[Path, Path] | None = None,
        call_secs: float = Deploy.call_secs,
    ) -> None:
        self.rank, self.generation = rank, 0
        self._at, self._call_secs = f"{host}:{port}", call_secs
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection
        if roots is None:
            self._connection = http.client.HTTPConnection(host, port, timeout=call_secs)
        else:
            context = ssl.create_default_context(cadata=roots.decode("ascii"))
            if identity is not None:
                context.load_cert_chain(*identity)
            self._connection = http.client.HTTPSConnection(host, port, timeout=call_secs, context=context)

    def reset(self, num_workers: int, num_rounds: int = 0) -> None:
        """The parameter server begins: `num_workers` workers, for so many rounds (0: for ever)."""
        self._ask(Kind.RESET, Status(self.rank), num_workers=num_workers, num_rounds=num_rounds)

    def report(self, round_: int, compute_secs: float = 0.0, send_secs: float = 0.0) -> Action:
        """The worker has pulled the model of a round. Called again, it shows that the worker is alive.

        Raises:
            StaleError: The round is over, or another process has taken this rank.
        """
        answer = self._ask(Kind.REPORT, self._status(round_, 0, compute_secs, send_secs))
        self.generation = answer.status.generation
        return answer.action or Action.TRAIN

    def query(self, round_: int, iteration: int, compute_secs: float, send_secs: float) -> tuple[Action, int]:
        """What to do after `iteration` steps, and how many steps to make if it is TRAIN.

        Raises:
            StaleError: The round is over, or another process has taken this rank.
        """
        answer = self._ask(Kind.QUERY, self._status(round_, iteration, compute_secs, send_secs))
        return answer.action or Action.SYNC, max(answer.steps, 1)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _status(self, round_: int, iteration: int, compute_secs: float, send_secs: float) -> Status:
        return Status(
            self.rank, iteration, round_, compute_secs, send_secs, time.time(), generation=self.generation
        )

    def _ask(self, kind: Kind, status: Status, num_workers: int = 0, num_rounds: int = 0) -> Message:
        message = Message(kind, status, self.rank, num_workers=num_workers, num_rounds=num_rounds)
        body = message.encode()
        code, content = self._twice(body)
        if code == 200:
            return decode(content)
        said = json.loads(content)["error"] if content[:1] == b"{" else f"HTTP {code}"
        if code in (401, 403, 429):
            raise AccessError("UNAUTHENTICATED", said)
        raise (StaleError if code == 409 else UserError)(said)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", "/message", body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _twice(self, body: bytes) -> tuple[int, bytes]:
        """Asked again after a break: messages may come twice, the table takes care of that."""
        try:
            return self._post(body)
        except (http.client.HTTPException, OSError):
            self._connection.close()
        try:
            return self._post(body)
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            late = f"no answer within deploy.call_secs = {self._call_secs:g} s, twice"
            why = late if isinstance(error, TimeoutError) else error
            raise UserError(
                f"the state server at {self._at} is not reached ({why}): is it running, and is this its port?"
            ) from error

"""The four messages of ESync's state server, as JSON, and a decoder that believes nothing.

Li et al. 2020, DOI 10.1109/TSC.2020.3044043, figure 4: `{sender_id, recver_id, msg_type, status, action}`
with `status = {rank, iteration, round, computation_time, transmission_time, timestamp}`. Times are seconds.
Beyond the paper: `generation` (which life of a worker speaks), `num_workers` and `num_rounds` of a RESET,
`steps` of a RESPONSE (how many to make before asking again), and the action STOP. `timestamp` is accepted
and not used: the server stamps what it receives with its own monotonic clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Mapping

from muster.core.errors import UserError

MAX_BYTES, MAX_WORKERS, MAX_COUNT = 4096, 4096, 2**53
MAX_SECS = 1e9


class Kind(StrEnum):
    """What a message is."""

    RESET = "RESET"
    REPORT = "REPORT"
    QUERY = "QUERY"
    RESPONSE = "RESPONSE"


class Action(StrEnum):
    """What a worker shall do."""

    TRAIN = "TRAIN"
    SYNC = "SYNC"
    STOP = "STOP"


@dataclass(frozen=True)
class Status:
    """What a worker says of itself."""

    rank: int
    iteration: int = 0
    round: int = 0
    computation_time: float = 0.0
    """Seconds of its last local iteration; 0: not known yet."""
    transmission_time: float = 0.0
    """Seconds to push one update."""
    timestamp: float = 0.0
    generation: int = 0
    """0: a new worker, or one that has come again; the answer gives it its number."""


@dataclass(frozen=True)
class Message:
    """One message."""

    msg_type: Kind
    status: Status
    sender_id: int = 0
    recver_id: int = 0
    action: Action | None = None
    steps: int = 0
    num_workers: int = 0
    num_rounds: int = 0

    def answer(self, action: Action, steps: int, generation: int) -> Message:
        """The RESPONSE to this message."""
        status = replace(self.status, generation=generation)
        return Message(Kind.RESPONSE, status, self.recver_id, self.sender_id, action, steps)

    def encode(self) -> bytes:
        """JSON, as `decode` reads it."""
        body = {**vars(self), "status": vars(self.status)}
        return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


def decode(content: bytes) -> Message:
    """The message in `content`.

    Raises:
        UserError: It is too long, not JSON, lacks a key, has one too many, or a value out of range.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"a message of {len(content)} bytes; at most {MAX_BYTES} are read")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the message is not JSON: {error}") from error
    body = _object(body, "the message", {"msg_type", "status"}, set(Message.__dataclass_fields__))
    status = _object(body.pop("status"), "status", {"rank"}, set(Status.__dataclass_fields__))
    made = Status(
        _count(status["rank"], "rank", MAX_WORKERS - 1),
        _count(status.get("iteration", 0), "iteration", MAX_COUNT),
        _count(status.get("round", 0), "round", MAX_COUNT),
        _secs(status.get("computation_time", 0), "computation_time", MAX_SECS),
        _secs(status.get("transmission_time", 0), "transmission_time", MAX_SECS),
        _secs(status.get("timestamp", 0), "timestamp", MAX_COUNT),
        _count(status.get("generation", 0), "generation", MAX_COUNT),
    )
    action = body.pop("action", None)
    return Message(
        _one_of(body.pop("msg_type"), Kind, "msg_type"),
        made,
        action=None if action is None else _one_of(action, Action, "action"),
        **{key: _count(value, key, MAX_COUNT) for key, value in body.items()},
    )


def _object(value: Any, what: str, needed: set[str], known: set[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be a JSON object")
    if missing := needed - set(value):
        raise UserError(f"{what} lacks {', '.join(sorted(missing))}")
    if unknown := set(value) - known:
        raise UserError(
            f"{what} has the unknown key {min(unknown)[:40]!r}; known: {', '.join(sorted(known))}"
        )
    return dict(value)


def _one_of(value: Any, kinds: Any, key: str) -> Any:
    if not isinstance(value, str) or value not in set(kinds):
        raise UserError(f"{key} must be one of {', '.join(kinds)}")
    return kinds(value)


def _count(value: Any, key: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise UserError(f"{key} must be an integer from 0 to {most}")
    return value


def _secs(value: Any, key: str, most: float) -> float:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not ok or not 0 <= value <= most:  # NaN and infinity too
        raise UserError(f"{key} must be a number of seconds from 0 to {most:g}")
    return float(value)

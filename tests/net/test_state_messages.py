"""What the state server reads: exactly its messages, and of anything else one sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import UserError
from muster.net.state_messages import Action, Kind, Message, Status, decode

ASKED = Message(Kind.QUERY, Status(2, 3, 4, 0.5, 0.25, 7.0, 1), sender_id=2, recver_id=9)


def test_a_message_survives_the_wire() -> None:
    told = Message(Kind.RESPONSE, Status(1), action=Action.TRAIN, steps=3)
    assert decode(ASKED.encode()) == ASKED
    assert decode(told.encode()) == told


def test_the_fields_are_those_of_the_paper() -> None:
    body = json.loads(ASKED.encode())
    assert {"sender_id", "recver_id", "msg_type", "status"} <= set(body)
    names = {"rank", "iteration", "round", "computation_time", "transmission_time", "timestamp"}
    assert names <= set(body["status"])


def changed(**status: object) -> bytes:
    body = json.loads(ASKED.encode())
    body["status"] |= status
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "lacks msg_type, status"),
        (b'{"msg_type": "QUERY", "status": {}}', "status lacks rank"),
        (b'{"msg_type": "HELLO", "status": {"rank": 0}}', "msg_type must be one of RESET"),
        (b'{"msg_type": ["QUERY"], "status": {"rank": 0}}', "msg_type must be one of RESET"),
        (b'{"msg_type": "QUERY", "status": {"rank": 0}, "more": 1}', "unknown key 'more'"),
        (changed(rank=-1), "rank must be an integer"),
        (changed(rank=True), "rank must be an integer"),
        (changed(rank=4096), "rank must be an integer from 0 to 4095"),
        (changed(iteration=1.5), "iteration must be an integer"),
        (changed(computation_time=float("nan")), "computation_time must be a number"),
        (changed(computation_time=float("inf")), "computation_time must be a number"),
        (changed(transmission_time=-1), "transmission_time must be a number"),
        (changed(transmission_time="1"), "transmission_time must be a number"),
        (b"[" * 4000, "is not JSON"),
        (b" " * 5000, "at most 4096"),
    ],
)
def test_what_is_no_message_is_told_so(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decode(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("abrnk", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abrnk", max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200)
    | JSON.map(lambda x: json.dumps(x).encode())
    | st.fixed_dictionaries(
        {"msg_type": st.sampled_from([*Kind]) | JSON, "status": st.fixed_dictionaries({"rank": JSON}) | JSON},
        optional={"action": JSON, "steps": JSON, "num_workers": JSON, "sender_id": JSON},
    ).map(lambda x: json.dumps(x).encode())
)
def test_no_bytes_crash_the_decoder(content: bytes) -> None:
    try:
        message = decode(content)
    except UserError:
        return
    assert decode(message.encode()) == message

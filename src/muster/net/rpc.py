"""Stubs and handlers of the service, made from its descriptor; channel options; versions of the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from muster.core.errors import UserError

from . import muster_pb2

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1
"""Versions of the protocol that this Muster speaks."""

CHUNK = 1 << 20
"""The most bytes that a break of a transfer can cost."""

PIECE = CHUNK // 4
"""Bytes of one message of a transfer. With a connection go the message that is being received, the
window behind it, and the message that the sender has at hand: three pieces, which a chunk must hold."""

LEAST_PIECE = PIECE // 16
"""The same over a connection that breaks again and again."""

OPTIONS = (
    ("grpc.http2.lookahead_bytes", PIECE),  # the window behind the message that is being received
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", 4 * CHUNK),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own waits grow to two minutes while a server is away, beyond any lease: that is for Link to say.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.enable_retries", 0),  # what is tried again, and when, is the client's own business
)

pb: Any = muster_pb2
"""The messages."""

_SERVICE = muster_pb2.DESCRIPTOR.services_by_name["Muster"]


class Stub:
    """The service's methods by name, as callables on a channel (of `grpc` or of `grpc.aio`)."""

    def __init__(self, channel: Any) -> None:
        for method in _SERVICE.methods:
            make = getattr(channel, f"{_shape(method)[0]}_{_shape(method)[1]}")
            call = make(
                f"/{_SERVICE.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


def handlers(serve: Callable[[str], Any]) -> Any:
    """The service as a generic handler; `serve` gives the function that serves a method, by its name."""
    table = {}
    for method in _SERVICE.methods:
        make = getattr(grpc, f"{_shape(method)[0]}_{_shape(method)[1]}_rpc_method_handler")
        table[method.name] = make(
            serve(method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(_SERVICE.full_name, table)


def _shape(method: Any) -> tuple[str, str]:
    """Whether each side sends one message or a stream of them."""
    sides = (method.client_streaming, method.server_streaming)
    return ("stream" if sides[0] else "unary", "stream" if sides[1] else "unary")


def agreed(theirs_min: int, theirs_max: int, software: str) -> int:
    """The newest version of the protocol that both sides speak.

    Raises:
        UserError: There is none; says which side is to be upgraded, and how.
    """
    if theirs_max < PROTOCOL_MIN:
        raise UserError(
            f"this client ({software}) speaks protocol {theirs_max}, the server needs {PROTOCOL_MIN} or "
            "newer: upgrade the client with pip install --upgrade 'muster-fl[net]'"
        )
    if theirs_min > PROTOCOL_MAX:
        raise UserError(
            f"this client ({software}) needs protocol {theirs_min} or newer, the server speaks "
            f"{PROTOCOL_MAX}: upgrade the server, or install the client's version that goes with it"
        )
    return min(theirs_max, PROTOCOL_MAX)

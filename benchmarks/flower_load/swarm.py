"""Many SuperNodes in one process, each a thread with a connection of its own, and no training.

    PYTHON_OF_FLOWER benchmarks/flower_load/swarm.py HOST:PORT --first 0 --count 100 --size 2500000

They speak through Flower's own client of its Fleet API, as `flower-supernode` does: a message is looked for,
its objects pulled and its receipt confirmed; the reply is announced and its objects pushed. Each sends other
numbers, since a SuperLink takes the same bytes once only. Spoken to in lines, as load_swarm.py.
"""

import argparse
import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_object_contents_from_iterable
from flwr.supernode.fleet_http_connection import http_request_response

Reply = tuple[Message, Any, dict[str, bytes]]
"""A message, its tree of objects, and what they hold."""


class Node:
    """A SuperNode."""

    def __init__(self, stack: ExitStack, address: str, number: int, size: int) -> None:
        connection = stack.enter_context(http_request_response(address, insecure=True))
        _, self._receive, self._send, *_, self._pull, self._push, self._confirm = connection
        self.number, self._size = number, size
        self._message: Any = None

    def fetch(self) -> int:
        """Waits for a message and gets its model, of which none is kept; returns its bytes."""
        while (received := self._receive()) is None:
            time.sleep(0.2)
        self._message, tree = received
        run = self._message.metadata.run_id
        names = [each.object_id for each in iterate_object_tree(tree)]
        contents = pull_objects(names, pull_object_fn=partial(self._pull, run))
        self._confirm(run, self._message.metadata.message_id)
        return sum(map(len, contents.values()))

    def reply(self) -> Reply:
        """The answer to that message."""
        delta = np.full(self._size, 1e-3, np.float32) + np.random.default_rng(self.number).standard_normal(
            self._size, np.float32
        )
        content = RecordDict(
            {
                "arrays": ArrayRecord({"model": Array(delta)}),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        message = Message(content, reply_to=self._message)
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            objects = get_all_nested_objects(message)
            return message, get_object_tree(message), {name: o.deflate() for name, o in objects.items()}

    def send(self, reply: Reply) -> int:
        """Announces the answer and pushes what the SuperLink wants of it; returns the bytes of that."""
        message, tree, contents = reply
        wanted, session = self._send(message, tree, 1.0)
        pushed = partial(self._push, message.metadata.run_id, session)
        push_object_contents_from_iterable(((name, contents[name]) for name in wanted), pushed)
        return sum(len(contents[name]) for name in wanted)


def tell(**figures: Any) -> None:
    """A line for load_flower.py."""
    print(json.dumps(figures), flush=True)


def main() -> None:
    """Lives until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    args = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with ExitStack() as stack, ThreadPoolExecutor(args.count) as threads:
        nodes = [
            Node(stack, args.address, number, args.size)
            for number in range(args.first, args.first + args.count)
        ]
        tell(joined=len(nodes))
        while sys.stdin.readline().strip() == "round":
            began = time.monotonic()
            received = list(threads.map(Node.fetch, nodes))
            tell(secs_down=time.monotonic() - began, down_bytes=sum(received))
            replies = list(map(Node.reply, nodes))
            tell(ready=len(replies))
            sys.stdin.readline()
            began, acks = time.monotonic(), list[float]()

            def send(node: Node, reply: Reply, began: float = began, acks: list[float] = acks) -> int:
                size = node.send(reply)
                acks.append(time.monotonic() - began)
                return size

            sent = list(threads.map(send, nodes, replies))
            tell(secs_up=max(acks), up_bytes=sum(sent), acks=acks)
            del replies


if __name__ == "__main__":
    main()

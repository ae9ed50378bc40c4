"""Reads pickles that hold plain data, by an interpreter of our own that cannot call anything.

A pickle is a program for a stack machine. Of its opcodes this machine knows those that make dicts,
lists, tuples, strings and numbers; all others are refused. The one exception is an empty
`collections.OrderedDict()`, spelled exactly as such, for which it makes a dict. `pickletools`, which
cuts the bytes into opcodes, is a disassembler: it imports and calls nothing either.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterable
from typing import Any, Final

from muster.core.errors import DataError

MAX_BYTES = 256 * 2**20
"""Of a file; the 107,749 availability traces of FedScale are 26 MB."""
MAX_CONTAINERS = 5_000_000
MAX_VALUES = 20_000_000
MAX_MEMO = 5_000_000
MAX_DEPTH = 10
MAX_MARKS = 100

_VALUES = {
    *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GET, _PUT = {"GET", "BINGET", "LONG_BINGET"}, {"PUT", "BINPUT", "LONG_BINPUT"}
_ORDERED: Final = object()
"""Stands for the class OrderedDict between its name and the call; it can be in no container."""


class _RefusedError(Exception):
    """Why a pickle is refused, as it reads after "this pickle"."""


def read_plain_pickle(data: bytes, name: str) -> Any:
    """The dicts, lists, tuples, strings, numbers, bools and None that a pickle holds.

    Args:
        data: The pickle, of any protocol.
        name: Of the file, for messages.

    Raises:
        DataError: It holds anything else, is damaged, or is larger or deeper than honest data is.

    """
    try:
        if len(data) > MAX_BYTES:
            raise _RefusedError(f"has {len(data):,} bytes, but at most {MAX_BYTES:,} are read")
        return _run(data)
    except _RefusedError as why:
        raise DataError(
            f"{name}: this pickle {why}; only containers, strings and numbers are read, "
            "since a pickle that can hold more can run code"
        ) from None


def _run(data: bytes) -> Any:
    machine = _Machine()
    operations = pickletools.genops(data)
    while True:
        try:
            operation, argument, position = next(operations)
        except (ValueError, OverflowError, struct.error, StopIteration, Warning):
            raise _RefusedError("is damaged or no pickle at all") from None
        if operation.name == "STOP":
            break
        machine.step(operation.name, argument)
    if position is None or position + 1 != len(data):
        raise _RefusedError("goes on after its end")
    return machine.result()


class _Machine:
    """The stack machine. A container has one place only: so there are neither cycles nor explosions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.num_containers = 0
        self.num_values = 0

    def step(self, name: str, argument: Any) -> None:
        """Does one operation, or refuses it."""
        if name in _VALUES:
            self._push(argument)
        elif name in _PUT or name == "MEMOIZE":
            self._remember(len(self.memo) if name == "MEMOIZE" else argument)
        elif name in _GET:
            self._push(self._remembered(argument))
        elif name in ("MARK", "SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._fill(name)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            self._hold({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name in _TUPLES:
            self._hold(tuple(_plain(self._pop() for _ in range(_TUPLES[name]))[::-1]))
        elif name in ("DICT", "LIST", "TUPLE"):
            items = _plain(self._marked())
            self._hold(_pairs(items) if name == "DICT" else items if name == "LIST" else tuple(items))
        elif name in ("GLOBAL", "STACK_GLOBAL", "REDUCE"):
            self._ordered_dict(name, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"has the opcode {name}")

    def result(self) -> Any:
        """What is left at the end."""
        if self.below or len(self.stack) != 1:
            raise _RefusedError("is damaged: it does not leave one object")
        (value,) = _plain(self.stack)
        level = [value]
        for _ in range(MAX_DEPTH + 1):
            level = [
                item
                for outer in level
                if isinstance(outer, (dict, list, tuple))
                for item in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(item, (dict, list, tuple))
            ]
        if level:
            raise _RefusedError(f"is nested more than {MAX_DEPTH} levels deep")
        return value

    def _push(self, value: Any) -> None:
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise _RefusedError("has a number of more than 64 bits")
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise _RefusedError(f"has more than {MAX_VALUES:,} values")
        self.stack.append(value)

    def _hold(self, container: Any) -> None:
        self.num_containers += 1
        if self.num_containers > MAX_CONTAINERS:
            raise _RefusedError(f"has more than {MAX_CONTAINERS:,} containers")
        self.stack.append(container)

    def _top(self) -> Any:
        if not self.stack:
            raise _RefusedError("is damaged: it takes from an empty stack")
        return self.stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self.stack.pop()
        return value

    def _marked(self) -> list[Any]:
        if not self.below:
            raise _RefusedError("is damaged: it looks for a mark that is not there")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _remember(self, number: Any) -> None:
        self.memo[number] = self._top()
        if len(self.memo) > MAX_MEMO:
            raise _RefusedError(f"has more than {MAX_MEMO:,} memo entries")

    def _remembered(self, number: Any) -> Any:
        if number not in self.memo:
            raise _RefusedError("is damaged: it recalls what it never stored")
        value = self.memo[number]
        if isinstance(value, (dict, list, tuple)):
            raise _RefusedError("has one container in two places")
        return value

    def _fill(self, name: str) -> None:
        if name == "MARK":
            if len(self.below) >= MAX_MARKS:
                raise _RefusedError(f"has more than {MAX_MARKS} open marks")
            self.below.append(self.stack)
            self.stack = []
            return
        wanted: type[Any] = dict if name.startswith("SETITEM") else list
        if name.endswith("S"):
            items = self._marked()
        else:
            items = [self._pop() for _ in range(2 if wanted is dict else 1)][::-1]
        target: Any = self._top()
        if type(target) is not wanted:
            raise _RefusedError(f"is damaged: {name} on something that is no {wanted.__name__}")
        items = _plain(items)
        if wanted is dict:
            target.update(_pairs(items))
        else:
            target.extend(items)

    def _ordered_dict(self, name: str, argument: Any) -> None:
        """The name `collections.OrderedDict`, or its call without arguments; nothing else."""
        if name == "REDUCE":
            arguments, called = self._pop(), self._pop()
            if called is not _ORDERED or arguments != ():
                raise _RefusedError("calls something (REDUCE)")
            self._hold({})
            return
        found = argument if name == "GLOBAL" else [self._pop(), self._pop()][::-1]
        if found != ("collections OrderedDict" if name == "GLOBAL" else ["collections", "OrderedDict"]):
            shown = found if isinstance(found, str) else " ".join(map(str, found))
            raise _RefusedError(f"names the Python object {shown[:60]!r} ({name})")
        self.stack.append(_ORDERED)


def _plain(items: Iterable[Any]) -> list[Any]:
    """The items, none of which may stand for a class."""
    listed = list(items)
    if any(item is _ORDERED for item in listed):
        raise _RefusedError("holds a Python class")
    return listed


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    if len(items) % 2 or not all(type(key) in (str, int, float) for key in keys):
        raise _RefusedError("has a dict whose keys are not all strings and numbers")
    return dict(zip(keys, items[1::2], strict=True))

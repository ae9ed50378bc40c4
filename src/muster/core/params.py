"""A model as one flat float32 vector and a `ParamSpec` that says what lies where.

Shared parameters come first, then buffers (BatchNorm's running statistics), each entry at a multiple
of 64 bytes. So an upload is one slice, an update one axpy, a checkpoint one write; layers see views.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from .storage import parts

Vector = npt.NDArray[np.float32]

ALIGN = 16
"""Elements of float32 in 64 bytes: every entry begins at a multiple of it."""

KINDS = ("weight", "bias", "norm", "statistic")
"""What an entry is. Only `statistic` is a buffer: it is averaged, never moved by an optimiser."""


@dataclass(frozen=True)
class Entry:
    """One named array of the model: `shape`, its `offset` in the vector (elements) and its `kind`."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int

    @property
    def size(self) -> int:
        """Elements of the array."""
        return prod(self.shape)


@dataclass(frozen=True)
class ParamSpec:
    """The layout of a model's flat vector; equal specs mean that vectors can be exchanged."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, tuple[int, ...], str]]) -> ParamSpec:
        """Lays out `(name, shape, kind)` in the order given, parameters before buffers.

        Raises:
            ValueError: A kind that is not in KINDS, or a name given twice.
        """
        listed = list(arrays)
        for name, _, kind in listed:
            if kind not in KINDS:
                raise ValueError(f"{name} has kind {kind!r}, allowed: {', '.join(KINDS)}")
        if len({name for name, _, _ in listed}) != len(listed):
            raise ValueError("two entries of a ParamSpec have the same name")
        entries, offset = [], 0
        for name, shape, kind in sorted(listed, key=lambda item: item[2] == "statistic"):
            entries.append(Entry(name, tuple(shape), kind, offset))
            offset += -(-prod(shape) // ALIGN) * ALIGN
        return cls(tuple(entries))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector, padding included."""
        return sum(-(-entry.size // ALIGN) * ALIGN for entry in self.entries)

    @cached_property
    def trained(self) -> int:
        """Length of the prefix that optimisers move: parameters without buffers."""
        return next((e.offset for e in self.entries if e.kind == "statistic"), self.size)

    @property
    def num_parameters(self) -> int:
        """Trainable numbers, without padding and buffers: what papers call the model's size."""
        return sum(entry.size for entry in self.entries if entry.kind != "statistic")

    @property
    def num_bytes(self) -> int:
        """Bytes of one copy of the vector: what one download or upload of the model carries."""
        return 4 * self.size

    def zeros(self) -> Vector:
        """A flat vector of zeros, f32[size]."""
        return np.zeros(self.size, np.float32)

    def views(self, vector: Any) -> dict[str, Any]:
        """Name -> view of `vector` (f32[size], NumPy or torch) in that entry's shape; no copies."""
        return {e.name: vector[e.offset : e.offset + e.size].reshape(e.shape) for e in self.entries}

    def places(self, names: Iterable[str]) -> npt.NDArray[np.int64]:
        """Where the elements of the named entries lie in the vector, in order, i64[n]."""
        wanted = set(names)
        spans = [np.arange(e.offset, e.offset + e.size) for e in self.entries if e.name in wanted]
        return np.concatenate([np.zeros(0, np.int64), *spans])

    def pack(self, arrays: Mapping[str, npt.ArrayLike]) -> Vector:
        """Copies named arrays into a new flat vector; the inverse of `views`.

        Raises:
            ValueError: A name is missing or an array has another shape.
        """
        vector = self.zeros()
        for name, view in self.views(vector).items():
            if name not in arrays:
                raise ValueError(f"{name} is missing, found: {', '.join(arrays)}")
            array = np.asarray(arrays[name], np.float32)
            if array.shape != view.shape:
                raise ValueError(f"{name} has shape {array.shape}, but must have {view.shape}")
            view[...] = array
        return vector

    def sha256(self, vector: Vector) -> str:
        """Hash of names, shapes and values; padding does not count."""
        digest, vector = hashlib.sha256(), np.ascontiguousarray(vector)
        for entry in self.entries:
            digest.update(f"{entry.name}{entry.shape}".encode())
            for part in parts(entry.offset + entry.size, vector, start=entry.offset):
                digest.update(vector[part].data)
        return digest.hexdigest()

    def to_json(self) -> list[list[Any]]:
        """The spec as JSON data: `[[name, shape, kind], ...]` in order."""
        return [[e.name, list(e.shape), e.kind] for e in self.entries]

    @classmethod
    def from_json(cls, data: list[list[Any]]) -> ParamSpec:
        """The inverse of `to_json`."""
        return cls.of((name, tuple(shape), kind) for name, shape, kind in data)

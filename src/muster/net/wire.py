"""Vectors as bytes: a safetensors file of flat vectors by name, whole or as the job's compression has them.

A vector `v` of P numbers is a tensor `v`: F32 [P], the same bits at the other end; or, under a rule of
`muster.uploads`, U8 [rule.num_bytes(P)], what the rule encodes. Around the file, optionally, one zstd stream.

What comes in is read by the layout that is expected, never by what it says of itself: a header must name
those tensors and no others, and they must fill the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from muster.core.params import Vector
from muster.core.part import known
from muster.core.storage import WIDTH, parts, release
from muster.uploads.compress import Compress

MAX_HEADER = 1 << 16

_DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def codecs() -> tuple[str, ...]:
    """The names of the compression rules that this Muster brings: a client says them when it joins."""
    return tuple(sorted(known("muster.uploads", Compress)))


class WireError(ValueError):
    """Bytes that are not what was agreed on; the text says what is wrong with them."""


@dataclass(frozen=True)
class Layout:
    """What a file holds: vectors by name, each of so many numbers, under a rule of compression or none."""

    vectors: tuple[tuple[str, int], ...]
    rule: Compress | None = None

    def tensors(self) -> dict[str, tuple[str, int]]:
        """Tensor name -> dtype and length, in the order in which they lie in the file."""
        if self.rule is None:
            return {name: ("F32", size) for name, size in self.vectors}
        return {name: ("U8", self.rule.num_bytes(size)) for name, size in self.vectors}

    def header(self) -> bytes:
        """The file's beginning: length and JSON, padded so that the tensors begin at a multiple of 64."""
        entries, at = {}, 0
        for name, (dtype, count) in self.tensors().items():
            end = at + _DTYPES[dtype].itemsize * count
            entries[name] = {"dtype": dtype, "shape": [count], "data_offsets": [at, end]}
            at = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % 64)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Bytes of the file as `encode` makes it."""
        tensors = self.tensors().values()
        return len(self.header()) + sum(_DTYPES[dtype].itemsize * count for dtype, count in tensors)

    @property
    def max_bytes(self) -> int:
        """The longest file that is read: what another writer of safetensors may add is little."""
        return self.num_bytes * 101 // 100 + MAX_HEADER


def _floats(size: int) -> Vector:
    return np.empty(size, np.float32)


@dataclass(frozen=True)
class Route:
    """Which spans of a model's vector travel: all of it, but for the entries that stay at the clients."""

    spans: tuple[tuple[int, int], ...]
    size: int
    """Of the whole vector."""

    @classmethod
    def of(cls, size: int, staying: npt.NDArray[np.int64]) -> Route:
        """The route of a vector of which the elements `staying` (i64[n], rising) do not travel."""
        if not len(staying):
            return cls(((0, size),), size)
        edges = np.flatnonzero(np.diff(np.isin(np.arange(size), staying), prepend=True, append=True))
        return cls(tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)), size)

    @property
    def length(self) -> int:
        """Numbers that travel."""
        return sum(stop - start for start, stop in self.spans)

    def pick(self, vector: Vector, empty: Callable[[int], Vector] = _floats) -> Vector:
        """What travels of f32[size], in a vector that `empty` makes; `vector` itself if that is all of it."""
        if self.length == self.size:
            return vector
        out, at = empty(self.length), 0
        for start, stop in self.spans:
            for part in parts(stop, vector, start=start):
                into = out[at : (at := at + part.stop - part.start)]
                into[:] = vector[part]
                release(into)
        return out

    def fill(self, read: Callable[[int, Vector], None], start: int, out: Vector) -> None:
        """Fills `out` with the whole vector's elements from `start` on; what did not travel is 0.

        Args:
            read: Fills its second argument with what has travelled, from an element on.
            start: Of the whole vector.
            out: f32[n].

        """
        if self.length < self.size:
            out[:] = 0
        at, end = 0, start + len(out)
        for first, stop in self.spans:
            lo, hi = max(first, start), min(stop, end)
            if lo < hi:
                read(at + lo - first, out[lo - start : hi - start])
            at += stop - first

    def put(self, travelled: Vector, out: Vector) -> None:
        """Writes what has travelled to its places in `out`, f32[size]."""
        at = 0
        for start, stop in self.spans:
            out[start:stop] = travelled[at : at + stop - start]
            at += stop - start


def encode(layout: Layout, vectors: Mapping[str, Vector | bytes]) -> Iterator[bytes]:
    """The file, piece by piece, of about a megabyte each; under a rule `vectors` holds what it encodes."""
    yield layout.header()
    for name, size in layout.vectors:
        vector = vectors[name]
        if isinstance(vector, bytes):
            yield vector
            continue
        for part in parts(size, vector):
            yield vector[part].astype("<f4", copy=False).tobytes()


def infinite(rule: Compress, size: int) -> bytes:
    """What goes up of a vector that is not finite: one that the rule can write, and that the gate refuses."""
    with np.errstate(invalid="ignore"):
        return rule.encode(np.full(size, np.inf, np.float32), np.random.Generator(np.random.SFC64(0)))


def read_header(file: IO[bytes], num_bytes: int, layout: Layout) -> dict[str, int]:
    """Where each tensor of the layout begins in a file of `num_bytes`.

    Raises:
        WireError: The header is damaged, or says anything else than the layout.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if num_bytes < 8 or length > min(MAX_HEADER, num_bytes - 8):
        raise WireError(f"the header's length, {length:,} bytes, is impossible in {num_bytes:,} bytes")
    try:
        said = json.loads(file.read(length))
        said.pop("__metadata__", None)
        spans = {name: _span(entry, *layout.tensors()[name]) for name, entry in said.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WireError(f"the header is not that of {_expected(layout)} ({error!r:.200})") from error
    if set(spans) != set(layout.tensors()):
        raise WireError(f"there is {', '.join(sorted(spans)) or 'nothing'}, not {_expected(layout)}")
    at = 0
    for start, end in sorted(spans.values()):
        if start != at:
            raise WireError("the tensors overlap, or leave a gap")
        at = end
    if 8 + length + at != num_bytes:
        raise WireError(f"the tensors have {at:,} bytes, the file has {num_bytes - 8 - length:,}")
    return {name: 8 + length + start for name, (start, _) in spans.items()}


def _span(entry: Mapping[str, Any], dtype: str, count: int) -> tuple[int, int]:
    """Begin and end of a tensor, if its entry says what the layout says."""
    start, end = entry["data_offsets"]
    if not (type(start) is int and type(end) is int and 0 <= start <= end):
        raise ValueError("offsets must be integers that rise")
    if entry["dtype"] != dtype or entry["shape"] != [count] or end - start != count * _DTYPES[dtype].itemsize:
        raise ValueError(f"must be {dtype} of shape [{count}]")
    return start, end


def _expected(layout: Layout) -> str:
    return ", ".join(f"{name} {dtype} [{count}]" for name, (dtype, count) in layout.tensors().items())


@dataclass(frozen=True)
class Stored:
    """A file that is under no rule, to be read in parts."""

    path: Path
    offsets: Mapping[str, int]
    """Where each vector begins, bytes."""

    @classmethod
    def of(cls, path: Path, layout: Layout) -> Stored:
        """The file, once its header has been read.

        Raises:
            WireError: The file does not have the layout.
        """
        with path.open("rb") as file:
            return cls(path, read_header(file, path.stat().st_size, layout))

    def read(self, name: str, start: int, out: Vector) -> None:
        """Fills `out` with a vector's numbers from `start` on.

        Raises:
            WireError: The file has become shorter.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            if os.preadv(handle, [out.view(np.uint8).data], self.offsets[name] + 4 * start) != out.nbytes:
                raise WireError(f"{self.path} has become shorter")
        finally:
            os.close(handle)


def mapped(path: Path, layout: Layout) -> dict[str, Vector]:
    """The vectors of a file that is under no rule, mapped read-only.

    Raises:
        WireError: The file does not have the layout.
    """
    offsets = Stored.of(path, layout).offsets
    return {
        name: np.memmap(path, np.float32, "r", offset=offsets[name], shape=(size,))
        for name, size in layout.vectors
    }


def expand(source: Path, layout: Layout, target: Path) -> None:
    """Rewrites a file as one that is under no rule, a vector after another.

    Raises:
        WireError: The file does not have the layout, or the rule cannot read it.
    """
    plain = Layout(layout.vectors)
    with source.open("rb") as file, target.open("wb") as out:
        offsets = read_header(file, source.stat().st_size, layout)
        out.write(plain.header())
        for name, size in layout.vectors:
            file.seek(offsets[name])
            if layout.rule is not None:
                data = file.read(layout.rule.num_bytes(size))
                out.write(_decoded(layout.rule, name, data, size).data)
                continue
            for start in range(0, size, WIDTH):
                out.write(file.read(4 * min(WIDTH, size - start)))


def _decoded(rule: Compress, name: str, data: bytes, size: int) -> Vector:
    try:
        vector = np.asarray(rule.decode(data, size), "<f4")
    except Exception as error:  # a rule may be the user's own, and the bytes anybody's
        raise WireError(f"{name} is nothing that {rule.part_name()} encodes ({error})") from error
    if vector.shape != (size,):
        raise WireError(f"{name} is decoded as {vector.shape}, not as [{size}]")
    return vector


def compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces as one zstd stream."""
    import zstandard

    packer = zstandard.ZstdCompressor(level=3).compressobj()
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def decompress(source: Path, target: Path, max_bytes: int) -> None:
    """Unpacks a zstd stream, but no further than `max_bytes`.

    Raises:
        WireError: The stream is damaged, cut short, or longer than that.
    """
    import zstandard

    written = 0
    try:
        with source.open("rb") as packed, target.open("wb") as out:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(packed)
            while piece := reader.read(1 << 20):
                written += len(piece)
                if written > max_bytes:
                    raise WireError(f"unpacked, it is longer than the {max_bytes:,} bytes that are allowed")
                out.write(piece)
    except zstandard.ZstdError as error:
        raise WireError(f"the zstd stream is damaged ({error})") from error


def write_file(path: Path, pieces: Iterator[bytes]) -> tuple[str, int]:
    """Writes a file; returns its sha256 and its length."""
    digest, length = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            length += len(piece)
    return digest.hexdigest(), length

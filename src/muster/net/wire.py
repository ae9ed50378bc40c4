"""Vectors as bytes: a safetensors file of the flat vectors by name, whole or in fewer bits.

| codec  | tensors of a vector `v` of P numbers                                        |
| ------ | --------------------------------------------------------------------------- |
| `none` | `v` F32 [P]: the same bits at the other end                                 |
| `fp16` | `v` F16 [P]                                                                 |
| `int8` | `v` I8 [P], `v.scale` F32 [⌈P/4096⌉]: rounded to 1/127 of a block's largest |
| `topk` | `v.at` I32 [k], `v.value` F32 [k]: the k largest, the others are 0          |

Around it, optionally, one zstd stream. What comes in is read by the layout that is expected, never by
what it says of itself: a header must name those tensors and no others, and they must fill the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from muster.core.params import Vector

CODECS = ("none", "fp16", "int8", "topk")
BLOCK = 1 << 18
"""Numbers that are converted in one go; a multiple of SCALED."""
SCALED = 4096
"""Numbers that share one scale of the int8 codec."""
MAX_HEADER = 1 << 16

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
}


class WireError(ValueError):
    """Bytes that are not what was agreed on; the text says what is wrong with them."""


@dataclass(frozen=True)
class Layout:
    """What a file holds: vectors by name, each of so many numbers, in a codec."""

    vectors: tuple[tuple[str, int], ...]
    codec: str = "none"
    share: float = 0.01
    """Of the coordinates that `topk` keeps."""

    def num_kept(self, size: int) -> int:
        """k of `topk`."""
        return max(1, min(size, ceil(size * self.share)))

    def tensors(self) -> dict[str, tuple[str, int]]:
        """Tensor name -> dtype and length, in the order in which they lie in the file."""
        found: dict[str, tuple[str, int]] = {}
        for name, size in self.vectors:
            if self.codec == "none":
                found[name] = ("F32", size)
            elif self.codec == "fp16":
                found[name] = ("F16", size)
            elif self.codec == "int8":
                found[f"{name}.scale"] = ("F32", ceil(size / SCALED))
                found[name] = ("I8", size)
            else:
                found[f"{name}.at"] = ("I32", self.num_kept(size))
                found[f"{name}.value"] = ("F32", self.num_kept(size))
        return found

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

    def pick(self, vector: Vector) -> Vector:
        """What travels of f32[size]; the vector itself if that is all of it."""
        if self.length == self.size:
            return vector
        return np.concatenate([vector[start:stop] for start, stop in self.spans])

    def put(self, travelled: Vector, out: Vector) -> None:
        """Writes what has travelled to its places in `out`, f32[size]."""
        at = 0
        for start, stop in self.spans:
            out[start:stop] = travelled[at : at + stop - start]
            at += stop - start


def encode(layout: Layout, vectors: Mapping[str, Vector]) -> Iterator[bytes]:
    """The file, piece by piece, of about a megabyte each."""
    yield layout.header()
    for name, size in layout.vectors:
        vector = vectors[name]
        if layout.codec == "topk":
            at = _largest(vector, layout.num_kept(size))
            yield at.astype("<i4").tobytes()
            yield vector[at].astype("<f4").tobytes()
            continue
        if layout.codec == "int8":
            yield _scales(vector).tobytes()
        for start in range(0, size, BLOCK):
            yield _encoded(layout.codec, vector[start : start + BLOCK])


def _encoded(codec: str, part: Vector) -> bytes:
    if codec == "int8":
        scale = np.repeat(_scales(part), SCALED)[: len(part)]
        return np.rint(part / np.where(scale > 0, scale, 1)).astype("i1").tobytes()
    with np.errstate(over="ignore"):  # beyond 65504 becomes infinity, which the gate refuses
        return part.astype("<f4" if codec == "none" else "<f2").tobytes()


def _scales(part: Vector) -> npt.NDArray[np.float32]:
    """The largest of each SCALED numbers, over 127."""
    padded = np.zeros(-(-len(part) // SCALED) * SCALED, np.float32)
    np.abs(part, out=padded[: len(part)])
    return np.asarray(padded.reshape(-1, SCALED).max(axis=1) / np.float32(127), "<f4")


def _largest(vector: Vector, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest magnitudes, in rising order; of equal ones the first."""
    order = np.argsort(-np.abs(vector), kind="stable")[:count]
    return np.sort(order)


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


def mapped(path: Path, layout: Layout) -> dict[str, Vector]:
    """The vectors of a file in codec `none`, mapped read-only.

    Raises:
        WireError: The file does not have the layout.
    """
    with path.open("rb") as file:
        offsets = read_header(file, path.stat().st_size, layout)
    return {
        name: np.memmap(path, np.float32, "r", offset=offsets[name], shape=(size,))
        for name, size in layout.vectors
    }


def expand(source: Path, layout: Layout, target: Path) -> None:
    """Rewrites a file of any codec as one of codec `none`, in blocks.

    Raises:
        WireError: The file does not have the layout.
    """
    plain = Layout(layout.vectors)
    with source.open("rb") as file, target.open("wb") as out:
        offsets = read_header(file, source.stat().st_size, layout)
        out.write(plain.header())
        for name, size in layout.vectors:
            begin = out.tell()
            if layout.codec == "topk":
                out.truncate(begin + 4 * size)
                at = _read(file, offsets[f"{name}.at"], _DTYPES["I32"], layout.num_kept(size))
                value = _read(file, offsets[f"{name}.value"], _DTYPES["F32"], len(at))
                _scatter(name, at, value, size, out, begin)
                out.seek(begin + 4 * size)
                continue
            for start in range(0, size, BLOCK):
                count = min(BLOCK, size - start)
                out.write(_decoded(file, offsets, name, layout.codec, start, count).tobytes())


def _decoded(
    file: IO[bytes], offsets: Mapping[str, int], name: str, codec: str, start: int, count: int
) -> Any:
    if codec in ("none", "fp16"):
        dtype = _DTYPES["F32" if codec == "none" else "F16"]
        return _read(file, offsets[name] + start * dtype.itemsize, dtype, count).astype("<f4")
    whole = _read(file, offsets[name] + start, _DTYPES["I8"], count).astype(np.float32)
    scale = _read(file, offsets[f"{name}.scale"] + 4 * (start // SCALED), _DTYPES["F32"], -(-count // SCALED))
    with np.errstate(over="ignore", invalid="ignore"):  # the gate refuses what is not finite
        return np.asarray(whole * np.repeat(scale, SCALED)[:count], "<f4")


def _scatter(name: str, at: Any, value: Any, size: int, out: IO[bytes], begin: int) -> None:
    """Writes values to their places in a vector of zeros."""
    if at[0] < 0 or at[-1] >= size or (np.diff(at) <= 0).any():
        raise WireError(f"{name}.at must rise within 0..{size - 1}")
    out.flush()
    whole = np.memmap(out.name, np.float32, "r+", offset=begin, shape=(size,))
    whole[at] = value
    whole.flush()


def _read(file: IO[bytes], at: int, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    file.seek(at)
    return np.frombuffer(file.read(dtype.itemsize * count), dtype)


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

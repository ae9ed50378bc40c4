"""FashionMNIST: 70,000 pictures of clothes, 28 x 28 grey (Xiao, Rasul and Vollgraf 2017).

Read from the four official files as they are published (idx format, gzipped); nothing is downloaded.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Sequence

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError
from muster.core.examples import Examples, Facts
from muster.data.dataset import DataSet, Raw, source_files
from muster.data.partition import Dirichlet, Partition

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """FashionMNIST, u8[1, 28, 28]: 60,000 training and 10,000 test images in ten classes."""

    task: ClassVar[str] = "classification"
    partition: Partition = field(default_factory=Dirichlet)
    root: str | None = None
    """Folder of the four idx.gz files; by default `$MUSTER_DATA/fashion-mnist`."""

    def sources(self) -> Sequence[Path]:
        """The four official files.

        Raises:
            DataError: One is missing; says where it was looked for.
        """
        return source_files(self.part_name(), self.root, "fashion-mnist", FILES)

    def load(self) -> Raw:
        """Mean .2860 and standard deviation .3530 are those of the training images."""
        train_x, train_y, test_x, test_y = (read_idx(path) for path in self.sources())
        train = _examples(train_x, train_y, 60_000)
        test = _examples(test_x, test_y, 10_000)
        return Raw(Facts("fashion_mnist", (1, 28, 28), num_classes=10, mean=0.2860, std=0.3530), train, test)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """A gzipped idx file of unsigned bytes: labels u8[N] (magic 2049) or images u8[N, rows, columns] (2051).

    Header: big-endian u32 magic 0x0800 + dimensions, then the size of each dimension.

    Raises:
        DataError: The file cannot be read, is cut short, or is not such a file.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    num_dims = {2049: 1, 2051: 3}.get(int.from_bytes(content[:4], "big"))
    if num_dims is None or len(content) < 4 + 4 * num_dims:
        raise DataError(
            f"{path} starts with {content[:4].hex() or 'nothing'}, but an idx file starts with "
            "00000801 (labels) or 00000803 (images); fetch it again"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", num_dims, offset=4))
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * num_dims)
    if body.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} announces {shape} bytes, but holds {body.size}; fetch it again")
    return body.reshape(shape)


def _examples(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], count: int) -> Examples:
    """Images u8[N, 28, 28] and labels u8[N] as examples, if there are `count` of both."""
    if images.shape != (count, 28, 28) or labels.shape != (count,):
        found: list[Any] = [images.shape, labels.shape]
        raise DataError(
            f"fashion_mnist must have {count} images of 28 x 28 and as many labels, but the files hold "
            f"shapes {found[0]} and {found[1]}; use the official files"
        )
    return Examples(images[:, None], labels.astype(np.int64))

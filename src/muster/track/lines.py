"""A line for whoever reads a stream, who may have gone (`muster run ... | head`)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


def print_line(stream: TextIO, line: str) -> None:
    """Writes one line at once; characters that the stream's encoding lacks are escaped.

    When the reader has gone the stream's descriptor goes to the null device: nothing that is written after
    can fail again, what is still buffered at the process's end included.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):  # a stream with no descriptor of its own
            os.dup2(null, stream.fileno())
        os.close(null)

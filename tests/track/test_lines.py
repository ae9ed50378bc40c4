"""Lines for a reader who may have gone."""

import io
import os

from muster.track.lines import print_line


def test_a_reader_that_has_gone_fails_nothing_that_is_written_after():
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w", encoding="utf-8") as stream:
        print_line(stream, "one")
        print_line(stream, "two")
        stream.write("three, flushed when the stream is closed")


def test_a_stream_without_a_descriptor_may_break_too():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    print_line(Closed(), "one")


def test_a_terminal_that_knows_no_umlauts_gets_escapes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_line(stream, "städte")
    assert raw.getvalue() == b"st\\xe4dte\n"

"""The table of algorithms in the docs is what the code says."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("shelf", Path(__file__).parents[1] / "tools" / "shelf.py")
assert SPEC is not None and SPEC.loader is not None
shelf = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shelf)


def test_the_table_is_up_to_date() -> None:
    assert shelf.PAGE.read_text("utf-8") == shelf.page(), "run: python tools/shelf.py"


def test_every_algorithm_has_a_line_and_a_paper() -> None:
    for name, line, paper, changes, _ in shelf.rows():
        assert len(line) > 10 and len(paper) > 10, name
        assert (changes == "nothing") == (name == "fedavg"), name


def test_an_algorithm_is_short() -> None:
    assert statistics.median(row[-1] for row in shelf.rows()) < 60


def test_lines_of_code_are_counted_without_words() -> None:
    words = '"""Words.\n\nMore."""\n\n# not this\n'
    source = words + 'x = 1  # why\n\ndef f(\n    a,\n):\n    """Says."""\n    return a\n'
    assert shelf.lines_of_code(source) == 5  # x = 1, three lines of def, return

"""Writes docs/algorithms.md: every algorithm that Muster brings, in one table, from the code itself.

    python tools/shelf.py

What an algorithm changes is what its parts differ in from FedAvg's. Lines are those of its file that hold
code: no docstrings, comments or blank lines. tests/test_shelf.py sees to it that the page is up to date.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
from pathlib import Path

import muster.algorithms as room
from muster.algorithms.fedavg import fedavg
from muster.core.algorithm import Algorithm
from muster.job.names import SECTIONS, algorithms

PAGE = Path(__file__).parent.parent / "docs" / "algorithms.md"
HEAD = """# The shelf of algorithms

One file each in `src/muster/algorithms/`, with the paper's pseudo-code on top. `muster run job.yml
algorithm=NAME` runs one; any of the five parts can be exchanged for another's, by name. The table is made by
`python tools/shelf.py`: parts in bold are the paper's own, others are the same class with other settings.

| algorithm | in one line | paper | what differs from FedAvg | lines |
| --- | --- | --- | --- | --- |
"""


def paper(text: str) -> str:
    """The title (and where it is) of a module's citation, or of that of the file it names."""
    if "\n\n" not in text:
        named = re.search(r"`(\w+)\.py`", text)
        return paper(importlib.import_module(f"muster.algorithms.{named[1]}").__doc__ or "") if named else ""
    cited = " ".join(text.split("\n\n")[1].split()).split(": ", 1)[-1].rstrip(".")
    title = re.split(r"(?<=[.?])(?<![ .][A-Z]\.) ", cited, maxsplit=1)[0].rstrip(".")
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", cited)
    return f"[{title}](https://arxiv.org/abs/{found[1]})" if found else title


def changes(algorithm: Algorithm) -> str:
    """The sections whose parts are not FedAvg's."""
    plain, told = fedavg(), []
    for section in SECTIONS:
        part, usual = getattr(algorithm, section), getattr(plain, section)
        if type(part) is not type(usual):
            own = type(part).__module__.rpartition(".")[2] == algorithm.name
            told.append(f"**{section}**" if own else f"{section} ({part.part_name()})")
        elif part != usual:
            told.append(f"{section} ({usual.part_name()})")
    return ", ".join(told) or "nothing"


def lines_of_code(source: str) -> int:
    """Lines that hold code."""
    tree, kept = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr, ast.arguments, ast.alias)) and hasattr(node, "lineno"):
            kept |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            kept -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = source.splitlines()
    return sum(1 for n in kept if lines[n - 1].strip() and not lines[n - 1].strip().startswith("#"))


def rows() -> list[tuple[str, str, str, str, int]]:
    """Name, line, paper, changes and lines of code of each algorithm, in alphabetical order."""
    made = []
    for name, build in algorithms().items():
        module = importlib.import_module(build.__module__)
        line = (inspect.getdoc(build) or "").partition("\n")[0].rstrip(".")
        code = lines_of_code(inspect.getsource(module))
        made.append((name, line, paper(module.__doc__ or ""), changes(build()), code))
    return made


def shared() -> dict[str, int]:
    """The modules beside the algorithms' own, and their lines of code."""
    names = (info.name for info in pkgutil.iter_modules(room.__path__) if info.name not in algorithms())
    modules = {name: importlib.import_module(f"{room.__name__}.{name}") for name in names}
    return {name: lines_of_code(inspect.getsource(module)) for name, module in modules.items()}


def page() -> str:
    """The whole page."""
    made = rows()
    table = "".join("| " + " | ".join(map(str, row)) + " |\n" for row in made)
    beside = ", ".join(f"{name} ({lines})" for name, lines in shared().items())
    median = statistics.median(row[-1] for row in made)
    told = (
        f"The median file has {median:g} lines of code. Beside them is what several share, and the selector"
    )
    return f"{HEAD}{table}\n{told} for tests: {beside}.\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

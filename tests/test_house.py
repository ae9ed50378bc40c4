"""The rules of the house, kept by tests: nothing that runs what it reads, lazy imports, small files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
BANNED_CALLS = {
    *("eval", "exec", "torch.load", "numpy.loads", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
MAX_LINES = 500


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `np` is numpy, `load` of `from torch import load` is torch.load."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name.partition(".")[0]: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, aliases)}.{node.attr}"
    return ""


def offences(source: str) -> Iterator[str]:
    """What in a module could run what it reads."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in BANNED_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in BANNED_MODULES:
                yield str(node.module)
        elif isinstance(node, (ast.Name, ast.Attribute)) and _dotted(node, aliases) in BANNED_CALLS:
            yield _dotted(node, aliases)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield "allow_pickle"
        elif isinstance(node, ast.ClassDef):
            bases = {_dotted(base, aliases) for base in node.bases}
            yield from (base for base in bases if base in {"yaml.Loader", "yaml.FullLoader"})


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from joblib import load", "joblib"),
        ("import dill as d", "dill"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("import torch as t\nread = t.load", "torch.load"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.load"),
        ("eval(text)", "eval"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load(path, allow_pickle=asked)", "allow_pickle"),
        ("import yaml\nclass L(yaml.FullLoader): ...", "yaml.FullLoader"),
    ],
)
def test_the_finder_finds(source: str, found: str) -> None:
    assert found in set(offences(source))


def test_the_finder_lets_pass_what_is_harmless() -> None:
    source = "import yaml, numpy as np, json\nyaml.safe_load(t)\nnp.load(p, allow_pickle=False)\njson.load(f)"
    assert list(offences(source)) == []


def test_nothing_runs_what_it_reads() -> None:
    assert len(SOURCES) > 60
    found = {str(path.relative_to(ROOT)): set(offences(path.read_text("utf-8"))) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert silent == []


def test_long_files_have_a_reason() -> None:
    reasons = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs" / "decisions").glob("*.md"))
    long = [path for path in SOURCES if len(path.read_text("utf-8").splitlines()) > MAX_LINES]
    assert [path for path in long if str(path.relative_to(ROOT)) not in reasons] == []


def test_every_room_has_a_tenant() -> None:
    rooms = [path.parent for path in SOURCES if path.name == "__init__.py" and path.parent.name != "muster"]
    assert [room for room in rooms if len(list(room.glob("*.py"))) < 2] == []


@pytest.mark.parametrize(
    ("what", "heavy"),
    [
        ("import muster", {"torch", "sklearn", "matplotlib", "pydantic", "numpy", "rich", "yaml"}),
        ("from muster.cli import main\nmain(['--help'])", {"torch", "sklearn", "matplotlib", "pydantic"}),
        ("import muster\nmuster.load_job", {"torch", "sklearn", "matplotlib"}),
    ],
)
def test_heavy_libraries_wait_until_they_are_needed(what: str, heavy: set[str]) -> None:
    code = (
        f"import sys\ntry:\n    {what.replace(chr(10), chr(10) + '    ')}\nexcept SystemExit: pass\n"
        f"print('loaded:', *({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].rstrip() == "loaded:"

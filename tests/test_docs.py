"""What the pages show is so: their Python runs and gives what stands beside it, their YAML is a job's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from muster.devices.importers import import_traces
from muster.job import job_from_dict

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")))]
WORD = re.compile(r"True|False|-?\d+(?:\.\d+)?(?:e-?\d+)?")
"""What a result consists of, as far as it is compared."""


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def shown(line: str) -> list[str]:
    """The numbers and truths that a comment at the end of a line shows, up to its first colon."""
    return WORD.findall(line.partition("  # ")[2].partition(":")[0])


def results(code: str) -> list[tuple[str, list[str], str]]:
    """Runs code; of each line that is a value, or prints some: the line, what is shown, what came."""
    names: dict[str, object] = {}
    lines, found = code.splitlines(), []
    for node in ast.parse(code).body:
        line = lines[(node.end_lineno or 1) - 1]
        if not isinstance(node, ast.Expr) or not shown(line):
            exec(compile(ast.Module([node], []), "<page>", "exec"), names)
            continue
        value = node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "print":
            value = ast.Tuple(value.args, ast.Load())
        expression = ast.fix_missing_locations(ast.Expression(value))
        found.append((line, shown(line), repr(eval(compile(expression, "<page>", "eval"), names))))  # noqa: S307  our own page
    return found


def test_the_code_of_devices_gives_what_stands_beside_it() -> None:
    told = results("\n".join(blocks("docs/devices.md", "python")))
    assert len(told) == 4
    for line, wanted, came in told:
        values = [float(word) if word[0] not in "TF" else word == "True" for word in WORD.findall(came)]
        expected = [float(word) if word[0] not in "TF" else word == "True" for word in wanted]
        assert values == pytest.approx(expected, rel=1e-8), line


@pytest.mark.parametrize("page", PAGES)
def test_the_yaml_of_a_page_is_a_jobs(page: str, tmp_path: Path) -> None:
    (devices := tmp_path / "devices.csv").write_text("ms_per_example,down_kbps,up_kbps\n41,6088,2100\n")
    import_traces([devices], tmp_path / "traces")
    for block in blocks(page, "yaml"):
        job_from_dict(yaml.safe_load(block.replace("path: DIR", f"path: {tmp_path / 'traces'}")))


def test_pages_are_looked_at() -> None:
    """The tests above say something: there is YAML to look at, and it is checked."""
    assert sum(len(blocks(page, "yaml")) for page in PAGES) >= 6

"""What the pages show is so: their Python runs and gives what stands beside it, their YAML is a job's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from muster.cli import app
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


SPOKEN = [*PAGES, "CONTRIBUTING.md"]
"""Pages that name commands."""


def commands(text: str, first: str) -> list[list[str]]:
    """The commands of a page that begin with a word, from its `sh` blocks and its `code`.

    Several stand on a line with ; between. What is in brackets is left out; a comment ends a line.
    """
    lines = [
        line for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()
    ]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    bare = [re.sub(r"\[[^\]]*\]", "", line.partition(" #")[0]) for line in lines]
    words = [part.split() for line in bare for part in re.split(r";|&&", line)]
    return [found for found in words if found[:1] == [first] and len(found) > 1]


def refused(words: list[str]) -> str | None:
    """What `muster` would say of a command line before it does anything; None if it is as it must be."""
    command, words = get_command(app), words[1:]
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if "--help" in words or hasattr(command, "commands") or not words:
        return None  # it is only named
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    return f"there is no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", SPOKEN)
def test_the_commands_of_a_page_exist(page: str) -> None:
    for words in commands((ROOT / page).read_text(), "muster"):
        assert refused(words) is None, " ".join(words)


@pytest.mark.parametrize("page", SPOKEN)
def test_the_scripts_and_targets_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for _, script, *words in commands(text, "python"):
        if script.endswith(".py"):
            source = (ROOT / script).read_text()
            assert [w for w in words if w.startswith("--") and f'"{w}"' not in source] == [], script
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for _, target, *_ in commands(text, "make"):
        assert target in targets


def test_a_command_that_is_not_there_is_seen() -> None:
    lines = "muster run job.yml [key=value ...]  # runs", "muster run job.yml --fast; muster data"
    text = "\n".join(("`muster fly`", "```sh", *lines, "```", ""))
    found = commands(text, "muster")
    assert found[0] == ["muster", "run", "job.yml"] and len(found) == 4
    told = [refused(words) for words in found]
    assert told == [None, "there is no option --fast", None, "there is no command fly"]
    assert sum(len(commands((ROOT / page).read_text(), "muster")) for page in SPOKEN) > 20


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("README.md", "python")[0]
    assert '"rounds": 50' in code
    exec(compile(code.replace('"rounds": 50', '"rounds": 2'), "<README>", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:3]] == ["0", "1", "2"]
    assert "dict_keys" in told[3] or "KeysView" in told[3]

"""What a job file says, as plain data, and where it says it: the line of every key.

The YAML is read by a safe scanner with the types of YAML 1.2's core schema: `1e-3` is a number, `on`
and `010` are not what YAML 1.1 took them for, and no tag makes an object. Keys that occur twice are
refused. Overrides (`algorithm.pace.cohort=50`) are laid over the tree, so they are checked like the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from muster.core.errors import JobError

Keys: TypeAlias = tuple[str, ...]
"""Where a value is: `("algorithm", "pace", "cohort")`; items of a list go by their number."""

COMMAND_LINE = "given on the command line"
MAX_DEPTH = 50
"""No setting is nested deeper, not nearly."""
MAX_NODES = 100_000
"""More values than this in one file is no job but a bomb of aliases."""


@dataclass(frozen=True)
class Source:
    """A job as plain data, and where each key of it was given."""

    tree: Mapping[str, Any]
    file: str = ""
    """As messages name it; empty for a job made from a mapping."""
    folder: Path = field(default_factory=Path)
    """References to a user's Python files are relative to it."""
    lines: Mapping[Keys, int | None] = field(default_factory=dict)
    """Line of each key, from 1; None for keys given on the command line."""

    def given(self, *candidates: Keys) -> Keys:
        """The first of `candidates` that was given, else the last."""
        return next((keys for keys in candidates if keys in self.lines), candidates[-1])

    def where(self, keys: Keys) -> str:
        """`"conf.yml:12: "` for a key that was given (or one above it), as a message begins."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        if keys in self.lines:
            line = self.lines[keys]
            return f"{COMMAND_LINE}: " if line is None else f"{self.file}:{line}: "
        return f"{self.file}: " if self.file else ""

    def order(self, keys: Keys) -> float:
        """Sorts keys by their place in the file; the command line comes last."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        line = self.lines.get(keys, 0)
        return float("inf") if line is None else line


class _Scanner(yaml.SafeLoader):
    """Finds YAML's nodes; only the resolvers below give a plain scalar a type."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _Writer(yaml.SafeDumper):
    """Quotes whatever `_Scanner` or another YAML reader would not take for text."""

    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        """Values that occur twice are written twice."""
        return True


_NUMBER = "-+.0123456789"
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list(_NUMBER)),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list(_NUMBER)),
):
    for _class in (_Scanner, _Writer):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read_file(path: Path, overrides: Iterable[str] = ()) -> Source:
    """Reads a job file.

    Raises:
        JobError: The file is missing, not UTF-8, not YAML, not a mapping, or has a key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise JobError(f"the job file {path} does not exist") from None
    except IsADirectoryError:
        raise JobError(f"{path} is a folder, but must be a job file (YAML)") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path} is not a text file in UTF-8 (byte {error.start}); write it anew") from None
    except OSError as error:
        raise JobError(f"the job file {path} cannot be read: {error.strerror}") from None
    tree, lines = read_text(text, str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise JobError(f"{path}:1: the file holds {shown(tree)}, but must hold `key: value` lines")
    return override(Source(tree, str(path), path.resolve().parent, lines), overrides)


def read_mapping(tree: Mapping[str, Any], overrides: Iterable[str] = ()) -> Source:
    """A job given as Python data; references to files are relative to the working folder."""
    return override(Source(_plain(tree), folder=Path.cwd()), overrides)


def read_text(text: str, file: str) -> tuple[Any, dict[Keys, int | None]]:
    """YAML text as plain data, with the line (from 1) of every key and item.

    Raises:
        JobError: Names file, line and what is wrong.
    """
    try:
        scanner = _Scanner(text)
        try:
            node = scanner.get_single_node()
        finally:
            scanner.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise JobError(f"{file}{f':{mark.line + 1}' if mark else ''}: {_yaml_problem(error)}") from None
    except yaml.YAMLError as error:
        raise JobError(f"{file}: this is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise JobError(f"{file}: this is nested too deeply") from None
    reader = _Reader(file)
    return (None if node is None else reader.value(node, ())), reader.lines


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "it cannot be read"
    if "'\\t'" in problem:
        return "there is a tab where YAML wants spaces; indent with spaces"
    return f"this is not YAML: {error.context + ', ' if error.context else ''}{problem}"


class _Reader:
    """Turns nodes into plain data and notes the line of every key."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Keys, int | None] = {}
        self.open: list[yaml.Node] = []
        self.num_nodes = 0

    def fail(self, node: yaml.Node, text: str) -> JobError:
        return JobError(f"{self.file}:{node.start_mark.line + 1}: {text}")

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or any(node is outer for outer in self.open):
            raise self.fail(node, "the aliases (*) of this file unfold without end; write the values out")
        if len(self.open) > MAX_DEPTH:
            raise self.fail(node, f"this is nested more than {MAX_DEPTH} levels deep")
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, keys)
            if isinstance(node, yaml.SequenceNode):
                return [self.item(child, (*keys, str(i))) for i, child in enumerate(node.value)]
            return self.scalar(node)
        finally:
            self.open.pop()

    def item(self, node: yaml.Node, keys: Keys) -> Any:
        self.lines[keys] = node.start_mark.line + 1
        return self.value(node, keys)

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node, "a key is a list or a mapping, but must be a word")
            key, line = str(key_node.value), key_node.start_mark.line + 1
            below = (*keys, key)
            if key in found:
                raise self.fail(
                    key_node, f"{'.'.join(below)} is given twice (first in line {self.lines[below]})"
                )
            self.lines[below] = line
            found[key] = self.value(child, below)
        return found

    def scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if not node.tag.startswith("tag:yaml.org,2002:") or kind not in _SCALARS:
            raise self.fail(node, f"the tag {node.tag} is not allowed; write plain values")
        try:
            return _SCALARS[kind](text)
        except ValueError:
            raise self.fail(node, f"{text[:60]!r} is no {kind}") from None


def _float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float": _float,
    "bool": lambda text: text == "true",
    "null": lambda text: None,
}


def override(source: Source, overrides: Iterable[str]) -> Source:
    """Lays `key.sub=value` pairs over a job, the later ones over the earlier.

    A value is read as YAML. A part that the file gives by name alone becomes a mapping, so that
    `algorithm.pace.cohort=50` works with `algorithm: fedyogi`.

    Raises:
        JobError: A pair without `=`, a value that is not YAML, or a key below a value that has none.
    """
    tree, lines = _plain(source.tree), dict(source.lines)
    for pair in overrides:
        name, equals, text = pair.partition("=")
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            raise JobError(f"{COMMAND_LINE}: {pair!r} is not of the form key=value, like seed=1")
        value, _ = read_text(text, f"{COMMAND_LINE}: the value of {name}")
        place = tree
        for depth, key in enumerate(keys[:-1], 1):
            inner = place.get(key)
            if isinstance(inner, str):
                inner = {"name": inner}
            elif inner is None:
                inner = {}
            if not isinstance(inner, dict):
                above = ".".join(keys[:depth])
                raise JobError(f"{COMMAND_LINE}: {name} cannot be set, since {above} is {shown(inner)}")
            place[key] = inner
            lines.setdefault(keys[:depth], None)
            place = inner
        place[keys[-1]] = value
        lines = {k: line for k, line in lines.items() if k[: len(keys)] != keys}
        lines.update(dict.fromkeys(_all_keys(value, keys)))
    return Source(tree, source.file, source.folder, lines)


def _all_keys(value: Any, keys: Keys) -> Iterable[Keys]:
    yield keys
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _all_keys(inner, (*keys, key))


def _plain(value: Any) -> Any:
    """A deep copy with dicts and lists for all mappings and sequences."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def shown(value: Any) -> str:
    """A value as a message quotes it: short, on one line."""
    if isinstance(value, dict):
        return f"a mapping ({', '.join(map(str, value))})" if value else "an empty mapping"
    text = {None: "null", True: "true", False: "false"}[value] if _is_word(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def write_text(tree: Mapping[str, Any]) -> str:
    """Plain data as YAML that `read_text` reads back equal."""
    return yaml.dump(tree, Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=None)

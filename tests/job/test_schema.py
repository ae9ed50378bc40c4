"""The JSON schema: complete, strict, and told in the words of the code."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from muster.job import job_from_dict, job_to_dict, json_schema

SCHEMA = json_schema()


def fits(value: Any, schema: Any) -> bool:
    """The few words of JSON Schema that ours uses, to judge it without a validator at hand."""
    if schema is True:
        return True
    if "$ref" in schema and not fits(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "oneOf" in schema and sum(fits(value, option) for option in schema["oneOf"]) != 1:
        return False
    if "anyOf" in schema and not any(fits(value, option) for option in schema["anyOf"]):
        return False
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "object": dict,
        "array": list,
        "boolean": bool,
    }
    kinds["null"] = type(None)
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):  # type: ignore[arg-type]
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    if isinstance(value, dict) and schema.get("type") == "object":
        known = schema.get("properties", {})
        if schema.get("additionalProperties") is False and set(value) - set(known):
            return False
        if set(schema.get("required", ())) - set(value):
            return False
        return all(fits(item, known[key]) for key, item in value.items() if key in known)
    if isinstance(value, list) and "items" in schema:
        return all(fits(item, schema["items"]) for item in value)
    return True


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"algorithm": "fedyogi", "model": "leaf_cnn", "data": "fashion_mnist"},
        {"algorithm": {"name": "fedyogi", "server": {"lr": 0.01}, "pace": {"cohort": 50}}},
        {"algorithm": {"server": "yogi", "local": {"name": "own.py:MyClient", "lr": 0.1}}},
        {"model": {"name": "../nets.py:Net", "width": 3}, "algorithm": "package.module:mine"},
        {"data": {"name": "digits", "partition": {"name": "iid", "num_clients": 7}}},
        {"stop": {"rounds": None, "wall_secs": 3, "target": {"value": 0.9}}, "engine": {"workers": "auto"}},
    ],
)
def test_the_schema_accepts_what_a_job_file_may_say(job: dict[str, object]) -> None:
    assert fits(job, SCHEMA)


@pytest.mark.parametrize(
    "job",
    [
        {"algoritm": "fedavg"},
        {"algorithm": "fedyogy"},
        {"algorithm": {"name": "fedavg", "sever": "yogi"}},
        {"algorithm": {"server": {"name": "add", "tau": 1}}},
        {"model": "resnet900"},
        {"model": {"name": "mlp", "hidden": ["wide"]}},
        {"train": {"epochs": "ten"}},
        {"engine": {"backend": "tensorflow"}},
        {"stop": {"target": {"metric": "accuracy"}}},
    ],
)
def test_the_schema_refuses_what_loading_refuses(job: dict[str, object]) -> None:
    assert not fits(job, SCHEMA)


def test_the_schema_accepts_a_resolved_job() -> None:
    for algorithm in ("fedavg", "fedyogi", "fedbuff"):
        assert fits(job_to_dict(job_from_dict({"algorithm": algorithm})), SCHEMA)


def test_the_schema_describes_fields_in_the_words_under_them() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    stop = SCHEMA["properties"]["stop"]["properties"]
    assert stop["rounds"]["description"] == "Versions of the model."
    assert stop["rounds"]["default"] == 100
    (sync,) = [
        o
        for o in SCHEMA["$defs"]["Pace"]["oneOf"]
        if o.get("properties", {}).get("name") == {"const": "sync"}
    ]
    assert sync["properties"]["cohort"]["description"] == "Updates that close a round."

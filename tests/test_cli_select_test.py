"""`muster select-test` on the digits: whom it names, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.cli import main

DIGITS = "data.partition.num_clients=20"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path / "cache"))
    Path("job.yml").write_text("{}")

    def told(*args: str) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as exit_:
            main(["select-test", "job.yml", DIGITS, *args, "--json"])
        return exit_.value.code, json.loads(capsys.readouterr().out)

    return told


def test_by_deviation(call):
    # 21 / (1 - 40 / ln(0.2) x 0.25) = 2.91.
    code, body = call("--deviation", "0.5", "--range", "1", "--confidence", "0.8")
    assert code == 0 and body["num_clients"] == 20 and len(set(body["clients"])) == 3


def test_by_class(call):
    code, body = call("--class", "3=10", "--class", "7=5", "--budget", "20")
    tested = [sum(column) for column in zip(*body["examples"], strict=True)]
    assert code == 0 and tested == [0, 0, 0, 10, 0, 0, 0, 5, 0, 0]
    assert len(body["clients"]) == len(body["examples"]) and body["secs"] > 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "either --deviation X or --class G=N"),
        (("--deviation", "1", "--class", "0=1"), "either"),
        (("--class", "10=1"), "--class 10=1 must be CLASS=EXAMPLES"),
        (("--class", "0=9999"), "9999 examples of class 0 are asked for"),
    ],
)
def test_what_makes_no_sense_is_refused(call, args, said):
    code, body = call(*args)
    assert code == 2 and said in body["error"]

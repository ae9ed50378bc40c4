"""The operators' commands: what is printed where, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster.cli import main
from muster.core.record import Record
from muster.track.folder import RunFolder


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_from_nothing_to_a_clients_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator, client = str(tmp_path / "operator"), str(tmp_path / "client")
    assert call("certs", "init", "--dir", operator, "--host", "fl.example.org") == 0
    assert call("certs", "request", "c1", "--dir", client) == 0
    assert call("certs", "issue", "c1", "--dir", operator, "--csr", f"{client}/c1.csr") == 0
    assert call("certs", "rotate", "server", "--dir", operator) == 0
    capsys.readouterr()
    assert call("certs", "show", "--dir", operator, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["certificates"]
    assert [(row["name"], row["role"]) for row in rows if row["file"] != "ca.crt"] == [
        ("c1", "client"),
        ("server", "server"),
    ]


def test_a_token_is_printed_alone_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("certs", "issue", "v1", "--dir", str(tmp_path), "--token", "--role", "viewer") == 0
    assert len(capsys.readouterr().out.split()) == 1
    assert call("certs", "revoke", "v1", "--dir", str(tmp_path)) == 0
    assert call("certs", "revoke", "v2", "--dir", str(tmp_path)) == 2
    assert "nothing to revoke" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("certs", "issue", "c1", "--dir", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_status_of_a_run_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path / "run", "")
    run.append(Record(4, 90.0, 1.0, 0.5, {"accuracy": 0.75}, num_accepted=3, num_late=1))
    assert call("status", str(run.path)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "run: running" and "test accuracy 0.75" in said
    assert said[-1] == "tasks of the newest round: 3 accepted, 1 late"
    assert call("status", str(run.path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"accuracy": 0.75}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["state-server"], "give --certs DIR"),
        (["state-server", "--insecure", "--host", "0.0.0.0"], "--insecure is for this machine only"),
        (["status", "nowhere"], "does not exist"),
    ],
)
def test_what_would_not_be_safe_is_refused(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*args) == 2
    assert said in capsys.readouterr().err

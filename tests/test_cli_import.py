"""`muster devices import`, up to a run over what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muster import simulate
from muster.cli import main


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{10 + i},{1000 + i}" for i in range(120))
    Path("phones.csv").write_text(f"ms_per_example,down_kbps\n{rows}\n")
    Path("times.csv").write_text("trace,start_secs,end_secs,period_secs\na,0,500000,500000\nb,0,90,100\n")


def test_traces_are_imported_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("devices", "import", "phones.csv", "times.csv", "--out", "phones") == 0
    said = capsys.readouterr().out
    assert said == (
        "phones: rows of compute 120, link 120, availability 2; "
        "use it with population: {name: imported, path: phones}\n"
    )
    job = {"population": {"name": "imported", "path": "phones", "join": "by_row"}, "stop": {"rounds": 2}}
    *_, last = simulate(job, clock_only=True)
    assert last.version == 2 and last.now_secs > 0


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_job_whose_traces_are_not_there_is_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yml").write_text("seed: 1\npopulation: {name: imported, path: nowhere}\n")
    assert call(command, "job.yml") == 2
    told = capsys.readouterr().err
    assert told.startswith("muster: job.yml:2: population.path: ") and "holds no imported traces" in told
    assert not Path("runs").exists()


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("devices", "import", "phones.csv", "--out", "phones", "--kind", "csv", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert (
        body["status"] == "ok" and body["path"] == "phones" and body["rows"] == {"compute": 120, "link": 120}
    )
    assert json.loads(Path("phones/facts.json").read_text())["sha256"] == body["sha256"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("none.csv", "--out", "x"), "none.csv cannot be read"),
        (("phones.csv", "--out", "x", "--kind", "xml"), "--kind is 'xml', but must be one of auto, fedscale"),
        (("phones.csv", "phones.csv", "--out", "x"), "brings ms_per_example, which another file has brought"),
        (("phones.csv",), "out"),
    ],
)
def test_what_cannot_be_imported_is_told(
    args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("devices", "import", *args) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1 and not Path("x").exists()

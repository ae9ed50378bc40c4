"""The command as its user meets it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import muster.run
from muster.cli import main
from muster.core.record import Record
from muster.job import load_job
from muster.track.folder import RunFolder

CASES = yaml.safe_load((Path(__file__).parent / "broken_jobs" / "cases.yml").read_text("utf-8"))

OWN = """
from dataclasses import dataclass
from muster import Client, DataSet, Server
from muster.data.partition import Iid

class Net: ...

class Half: ...

@dataclass(frozen=True)
class Lost(DataSet):
    partition: Iid = Iid()
    def sources(self):
        raise OSError("lost")
    def load(self): ...

class Bare(Server):
    def apply(self, params, delta, opt, info):
        return params, opt

class Wants(Client):
    def __init__(self, lr): ...
    def train(self, data, model, conf): ...

class Short(Client):
    def train(self, data, model): ...

class Idle(Client): ...

def nothing():
    return 3
"""


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MUSTER_DATA", raising=False)
    Path("own.py").write_text(OWN)
    Path("syntax.py").write_text("class Net(:\n")
    Path("raises.py").write_text("raise RuntimeError('not today')\n")
    return tmp_path


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_broken_job_is_refused_with_one_sentence(
    case: dict[str, object], command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("conf.yml").write_text(str(case.get("job", "")))
    args = case.get("args", [])
    assert isinstance(args, list)
    assert call(command, "conf.yml", *args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    place = f"conf.yml:{case['line']}: " if "line" in case else ""
    wanted = f"muster: {place}{case.get('says', case.get('begins'))}".replace("FOLDER", str(folder.resolve()))
    assert err.rstrip("\n") == wanted if "says" in case else err.startswith(wanted)
    assert not list(folder.glob("runs*"))


def test_there_are_thirty_broken_jobs_at_least() -> None:
    assert len({case["case"] for case in CASES}) == len(CASES) >= 30


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "the job file conf.yml does not exist"),
        (lambda path: path.mkdir(), "conf.yml is a folder, but must be a job file (YAML)"),
        (lambda path: path.write_bytes(b"name: \xff\xfe\n"), "conf.yml is not a text file in UTF-8 (byte 6)"),
        (lambda path: path.write_bytes(b"name: \x00\n"), "conf.yml: this is not YAML: "),
    ],
)
def test_what_is_no_job_file_is_refused(
    make: object, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(Path("conf.yml"))
    assert call("check", "conf.yml") == 2
    assert capsys.readouterr().err.startswith(f"muster: {says}")


def test_check_prints_a_job_file_of_the_resolved_job(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("conf.yml").write_text("algorithm: fedyogi\n")
    assert call("check", "conf.yml", "algorithm.pace.cohort=50", "seed=7") == 0
    out = capsys.readouterr().out
    assert out.startswith("# conf.yml can run: 100 clients, up to 50 of them at work at once\n")
    Path("resolved.yml").write_text(out)
    assert load_job("resolved.yml") == load_job(
        {"name": "conf", "algorithm": {"name": "fedyogi", "pace": {"cohort": 50}}, "seed": 7}
    )


def test_explain_says_what_a_run_would_do_and_runs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("conf.yml").write_text("model: logistic\nengine: {backend: numpy}\n")
    assert call("run", "conf.yml", "stop.rounds=7", "algorithm.pace.deadline_secs=9", "--explain") == 0
    out = capsys.readouterr().out
    assert out.startswith("conf: fedavg trains logistic (650 parameters")
    assert "until 7 rounds" in out and "backend: numpy\n" in out and "\nworkers: " in out
    assert "\npace: sync, cohort 10, over_commit 1.0, deadline_secs 9.0, " in out
    assert call("run", "conf.yml", "--explain", "--clock-only", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["status"] == "ok" and body["plan"]["clock_only"] and "select: uniform" in body["lines"]
    assert not list(folder.glob("runs*"))


def test_check_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yml").write_text("")
    assert call("check", "conf.yml", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["status"], body["num_clients"], body["max_out"]) == ("ok", 100, 10)
    assert body["job"]["algorithm"]["pace"]["cohort"] == 10


def test_json_of_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf.yml").write_text("seed: -1\n")
    assert call("check", "conf.yml", "--json") == 2
    out, err = capsys.readouterr()
    sentence = "conf.yml:1: seed is -1, but must be an integer at least 0"
    assert json.loads(out) == {"status": "refused", "error": sentence}
    assert err == f"muster: {sentence}\n"


@pytest.mark.parametrize("args", [("run",), ("fly",), ("check", "conf.yml", "--speed=3"), ("resume",)])
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "muster --help" in err


@pytest.mark.parametrize(("status", "code"), [("rounds", 0), ("interrupted", 130)])
def test_run_hands_the_job_on_and_prints_its_summary(
    status: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = {}

    def run(job: object, out: Path | None, **how: object) -> dict[str, object]:
        seen.update(job=job, out=out, **how)
        print("what a user's own code prints")
        return {"status": status, "rounds": 3}

    monkeypatch.setattr(muster.run, "run", run)
    Path("conf.yml").write_text("stop: {rounds: 3}\n")
    assert call("run", "conf.yml", "seed=4", "--out", "there", "--json", "--clock-only") == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"status": status, "rounds": 3}
    assert "own code prints" in err
    assert seen == {
        "job": load_job("conf.yml", ["seed=4"]),
        "out": Path("there"),
        "clock_only": True,
        "json": True,
        "conf": "conf.yml",
        "profile": False,
    }


def test_ctrl_c_is_130(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resume(folder: Path, *, json: bool) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(muster.run, "resume", resume)
    assert call("resume", "runs/x") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_of_ours_is_1_with_a_traceback_that_is_also_in_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resume(folder: Path, *, json: bool) -> dict[str, object]:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(muster.run, "resume", resume)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert call("resume", "runs/x", "--json") == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    (file,) = folder.glob("muster-*.traceback.txt")
    assert "ZeroDivisionError: oh" in file.read_text()
    assert json.loads(out)["status"] == "failed" and str(file) in json.loads(out)["error"]


@pytest.mark.parametrize(
    ("command", "kind", "name"),
    [
        ("algorithms", "algorithms", "fedbuff"),
        ("algorithms", "server", "yogi"),
        ("models", "models", "mlp"),
        ("data", "data sets", "digits"),
        ("data", "partitions", "dirichlet"),
        ("devices", "populations", "always_on"),
    ],
)
def test_lists(command: str, kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--json") == 0
    entries = json.loads(capsys.readouterr().out)[kind]
    (entry,) = [entry for entry in entries if entry["name"] == name]
    assert entry["summary"]
    assert call(command) == 0
    assert name in capsys.readouterr().out


def test_devices_show_prints_quantiles_and_who_is_online(capsys: pytest.CaptureFixture[str]) -> None:
    equal = ("devices", "show", "always_on", "ms_per_example=7", "up_kbps=50", "--clients", "3")
    assert call(*equal, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["num_clients"] == 3 and body["shares"][4] == 0.5
    assert body["quantiles"] == {"compute_ms": [7] * 9, "down_kbps": [100_000] * 9, "up_kbps": [50] * 9}
    assert body["online_by_hour"] == [1] * 24
    assert call(*equal) == 0
    out = capsys.readouterr().out
    assert "compute_ms         7.0" in out and "3 clients" in out and "100.0%" in out


def test_devices_show_draws_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for seed in ("1", "1", "2"):
        assert call("devices", "show", "mobile", "availability=diurnal", "--seed", seed, "--json") == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] != said[2]
    assert all(0.1 < share < 0.25 for share in said[0]["online_by_hour"])
    assert len(set(said[0]["online_by_hour"])) > 1
    assert said[0]["quantiles"]["memory_mb"][4] == 4096


def test_devices_show_draws_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert call("devices", "show", "mobile", "--clients", "1", "--png", "one.png") == 0
    assert (folder / "one.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith("one.png\n")
    assert call("devices", "show", "mobile", "--clients", "1", "--png", "no/one.png") == 2
    assert "no/one.png cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("nobody",), "'nobody' is not a known population"),
        (("mobile", "links=odd"), "links is 'odd', but must be one of symmetric, asymmetric"),
        (("mobile", "odd"), "'odd' is not of the form key=value"),
        (("mobile", "--clients", "0"), "--clients"),
        (("silo", "quotas=[2]"), "population.quotas is (2.0,), but must be a list of numbers above 0"),
    ],
)
def test_devices_show_refuses_in_a_sentence(
    args: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("devices", "show", *args) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == "muster 0.1.0\n"
    for args in ([], ["--help"]):
        assert call(*args) == 0
        assert "resume" in capsys.readouterr().out


def test_help_and_import_load_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pydantic', 'sklearn', 'matplotlib', 'rich', 'yaml'}"
    code = (
        f"import sys, muster, muster.cli; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_json_holds_where_a_process_writes_to_the_descriptor(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os, muster\nos.write(1, b'noise')\nprint('more noise')\n"
        "def mine():\n    from muster.algorithms.fedavg import fedavg\n    return fedavg()\n"
    )
    (tmp_path / "conf.yml").write_text("algorithm: own.py:mine\n")
    done = subprocess.run(
        [sys.executable, "-c", "from muster.cli import main; main()", "check", "conf.yml", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["job"]["algorithm"]["name"] == f"{tmp_path.resolve()}/own.py:mine"
    assert "noise" in done.stderr


def two_runs(folder: Path) -> list[str]:
    for name in ("a", "b"):
        run = RunFolder.create(folder / name, "name: x\n")
        run.append(Record(1, 10.0, 1.0, metrics={"accuracy": 0.5}, num_accepted=1, clients=(0,)))
    return ["a", "b"]


def test_compare_prints_a_table_or_json_and_writes_a_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = two_runs(folder)
    assert call("compare", *runs) == 0
    out = capsys.readouterr().out
    assert out.startswith("goal: accuracy 0.5000, the best that all of them reached")
    assert "virtual time to accuracy 0.5000 10.0 s 10.0 s" in " ".join(out.split())
    assert call("compare", *runs, "--target", "accuracy=0.4", "--out", "both.html", "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["target"]["value"], body["page"], len(body["runs"])) == (0.4, "both.html", 2)
    assert Path("both.html").read_text().startswith("<!DOCTYPE html>")


def test_a_goal_that_is_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(folder)
    for wrong in ("accuracy", "=0.5", "accuracy=high", "accuracy=nan"):
        assert call("compare", *runs, "--target", wrong) == 2
        assert f"--target is {wrong!r}, but must be of the form metric=value" in capsys.readouterr().err


def test_report_as_page_and_as_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    two_runs(folder)
    assert call("report", "a") == 0 and call("report", "a", "--png", "--json") == 0
    page, answer = capsys.readouterr().out.splitlines()
    assert page == "a/report.html" and json.loads(answer) == {"status": "ok", "report": "a/report.png"}
    assert Path("a/report.png").read_bytes()[:4] == b"\x89PNG"

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from muster.core.record import Record
from muster.track.console import Lines, Live, make_console
from muster.track.phrases import (
    eta_secs,
    fraction_done,
    next_commands,
    outcome_lines,
    plan_lines,
    record_line,
    stop_text,
)
from muster.track.sink import RunPlan
from worlds.summaries import summarise

PLAN = RunPlan(
    *("fashion", "fedavg", "fashion_mnist", "leaf_cnn", 100, 6_603_902, 26_415_616),
    rounds=20, target_metric="accuracy", target_value=0.9, out=Path("runs/fashion-1"),
    conf="configs/fashion.yml", choices=("backend: torch (installed)", "workers: 2 of 2 cores"),
)  # fmt: skip


def record(version, metrics=None):
    return Record(
        *(version, 7440.0 * version, 2.0 * version, 1.0, metrics or {}), num_sent=13, num_accepted=10,
        num_late=2, num_lost=1, up_bytes=264_000_000, down_bytes=343_000_000, device_secs_used=90.0,
        device_secs_wasted=10.0, clients=(1, 2, 3),
    )  # fmt: skip


def summary(status="rounds", seed=0):
    records = [record(v, {"accuracy": 0.04 * v, "loss": 2.0 - 0.05 * v}) for v in range(1, 21)]
    return summarise(records, status, "all 20 rounds are done", PLAN.target, 10**9, "ab", seed)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines_of(stream):
    return stream.getvalue().splitlines()


def test_make_console_picks_by_stream(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_console(Terminal()), Live)
    assert isinstance(make_console(io.StringIO()), Lines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_console(Terminal()), Lines)
    console = make_console(io.StringIO(), json=True)
    console.say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_plain_lines_from_beginning_to_end():
    stream = io.StringIO()
    console = Lines(stream, Clock())
    console.begin(PLAN)
    console.tell(record(0, {"accuracy": 0.1}))
    console.say("a notice")
    console.tell(record(20, {"accuracy": 0.8, "loss": 1.0}))
    console.end(summary())
    text = stream.getvalue()
    assert "\x1b" not in text and text.isascii()
    lines = text.splitlines()
    assert lines[0] == (
        "fashion: fedavg trains leaf_cnn (6.6 M parameters, 26.4 MB) on fashion_mnist with 100 clients, "
        "until 20 rounds or accuracy 0.9"
    )
    assert lines[1:3] == ["backend: torch (installed)", "workers: 2 of 2 cores"]
    assert lines[3].startswith("round 0/20  virtual 0 s  wall 0 s")
    assert lines[4] == "a notice"
    assert lines[5] == (
        "round 20/20  virtual 1 d 17 h  wall 40.0 s  ETA 0 s  clients 10 accepted 2 late 1 lost  "
        "loss 1.0000  accuracy 0.8000  test loss 1.0000  up 264 MB down 343 MB"
    )
    assert lines[6:] == [
        "done: all 20 rounds are done",
        "accuracy 0.8000 (best 0.8000, round 20), test loss 1.0000",
        "20 rounds in 1 d 17 h of virtual time, 40.0 s of wall time; accuracy 0.9 not reached",
        "tasks: 200 accepted, 40 late, 20 lost",
        "network: 6.9 GB down, 5.3 GB up; device time: 33 m 20 s, 10.0 % of it wasted",
        "run folder: runs/fashion-1",
        "next:",
        "  muster report runs/fashion-1",
        "  muster run configs/fashion.yml algorithm=fedyogi",
        "  muster run configs/fashion.yml seed=1",
    ]


def test_a_fast_run_does_not_flood():
    stream, clock = io.StringIO(), Clock()
    console = Lines(stream, clock)
    console.begin(PLAN)
    for version in range(5000):  # 1,000 versions a second, all evaluated
        clock.now = version / 1000
        console.tell(record(version, {"accuracy": 0.5}))
    told = [line for line in lines_of(stream) if line.startswith("round ")]
    assert len(told) == 25  # at 0.0, 0.2, ..., 4.8 s


def test_without_evaluation_it_still_speaks_now_and_then():
    stream, clock = io.StringIO(), Clock()
    console = Lines(stream, clock)
    console.begin(PLAN)
    for version in range(31):  # one version a second, none evaluated
        clock.now = float(version)
        console.tell(record(version))
    assert len([line for line in lines_of(stream) if line.startswith("round ")]) == 4  # 0, 10, 20, 30 s


def live(width=80, clock=None):
    stream = io.StringIO()
    terminal = Console(file=stream, width=width, height=40, force_terminal=True, color_system="standard")
    return Live(stream, clock or Clock(), terminal), stream


def test_the_table_fits_eighty_columns_and_keeps_twelve_rows():
    clock = Clock()
    console, _ = live(clock=clock)
    console.begin(PLAN)
    for version in range(1, 21):
        clock.now += 2.0
        console.tell(record(version * 5000, {"accuracy": 0.5}))
    shown = io.StringIO()
    Console(file=shown, width=80).print(console.picture())
    console.end(summary())
    lines = lines_of(shown)
    assert len(lines) == 1 + 12 + 1
    assert lines[0].split() == ["round", "virtual", "wall", "acc/late/lost", "loss", "accuracy", "up", "down"]
    assert max(map(len, lines)) <= 80
    last = "100,000 8611 d 03 h 2 d 08 h 10/2/1 1.0000 0.5000 264 MB 343 MB"
    assert " ".join(lines[12].split()) == last
    assert "ETA 0 s" in lines[13] and "best accuracy 0.5000" in lines[13]


def test_rows_stay_readable_in_a_fast_run():
    clock = Clock()
    console, _ = live(clock=clock)
    console.begin(PLAN)
    for version in range(1, 3001):  # 1,024 versions a second, none evaluated
        clock.now = version / 1024
        console.tell(record(version))
    rounds = [row[0] for row in console._rows]
    console.end(summary())
    assert rounds == ["1", "1,025", "2,049", "3,000"]


def test_the_live_console_says_what_the_plain_one_says():
    console, stream = live(width=200)
    console.begin(PLAN)
    console.tell(record(20, {"accuracy": 0.8}))
    console.say("a notice [with] brackets")
    console.end(summary())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for line in [*plan_lines(PLAN), "a notice [with] brackets", "run folder: runs/fashion-1"]:
        assert line in text
    for command in next_commands(PLAN, summary()):
        assert f"  {command}\n" in text
    assert stream.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    console = make_console(stream)
    console.begin(PLAN)
    console.tell(record(1, {"accuracy": 0.8}))
    console.end(summary())
    colours = re.findall(r"\x1b\[([0-9;]*)m", stream.getvalue())
    assert not [c for c in colours if any(30 <= int(n or 0) <= 107 for n in c.split(";"))]


@pytest.mark.parametrize(
    "status", ["rounds", "target", "interrupted", "stalled", "virtual_secs", "wall_secs"]
)
@pytest.mark.parametrize("clock_only", [False, True])
def test_there_are_always_three_different_next_commands(status, clock_only):
    plan = RunPlan("a b", "fedyogi", "d", "m", 1, 1, 1, out=Path("runs/a b-1"), clock_only=clock_only)
    commands = next_commands(plan, summary(status))
    assert len(set(commands)) == 3
    assert all(command.startswith("muster ") for command in commands)
    assert ("muster resume 'runs/a b-1'" in commands) == (status == "interrupted")
    assert "algorithm=fedyogi" not in " ".join(commands)  # it is what was just run


@pytest.mark.parametrize(
    ("status", "first"), [("rounds", "muster report d"), ("interrupted", "muster serve a.yml --out d")]
)
def test_a_deployed_run_has_one_time_and_goes_on_by_serving(status, first):
    plan = replace(PLAN, deployed="muster serve a.yml --out d", out=Path("d"), virtual_secs=60.0)
    assert "virtual" not in record_line(plan, record(5)) and "wall 10.0 s" in record_line(plan, record(5))
    assert "virtual" not in "\n".join([*plan_lines(plan), *outcome_lines(plan, summary())])
    commands = next_commands(plan, summary(status))
    assert commands[0] == first and len(set(commands)) == 3 and "resume" not in " ".join(commands)


def test_eta_follows_the_first_rule_to_end_the_run():
    assert eta_secs(PLAN, record(5)) == 30.0  # 15 rounds of 2 s
    assert fraction_done(PLAN, record(5)) == 0.25
    both = RunPlan("a", "b", "c", "d", 1, 1, 1, rounds=20, virtual_secs=74400.0, wall_secs=15.0)
    assert eta_secs(both, record(5)) == 5.0  # the wall clock: 15 - 10; virtual time: 10
    assert fraction_done(both, record(5)) == pytest.approx(2 / 3)
    endless = RunPlan("a", "b", "c", "d", 1, 1, 1)
    assert eta_secs(endless, record(5)) is None and fraction_done(endless, record(5)) is None
    assert eta_secs(PLAN, record(0)) is None


def test_what_is_unusual_is_said_at_the_start():
    plan = RunPlan(
        *("a", "oort", "c", "d", 1, 1, 1),
        virtual_secs=7440.0,
        clock_only=True,
        surrogate=True,
        resumed_from=4,
    )
    text = "\n".join(plan_lines(plan))
    assert "until 2 h 04 m of virtual time" in text
    assert "clock only" in text and "surrogate" in text and "goes on after round 4" in text
    assert stop_text(RunPlan("a", "b", "c", "d", 1, 1, 1, rounds=1)) == "1 round"


def test_of_what_is_told_of_clients_one_by_one_a_line_has_mean_and_worst_tenth():
    deciles = {f"clients_d{tenth}_accuracy": 0.1 * tenth for tenth in range(1, 10)}
    many = {
        "clients_mean_accuracy": 0.6,
        "clients_worst10_accuracy": 0.2,
        "clients_mean_loss": 2.0,
        **deciles,
    }
    line = record_line(PLAN, record(3, {"loss": 1.0, "accuracy": 0.5, **many}))
    assert "  test loss 1.0000  accuracy 0.5000  clients_mean_accuracy 0.6000  clients_worst10" in line
    assert "clients_d" not in line and "clients_mean_loss" not in line

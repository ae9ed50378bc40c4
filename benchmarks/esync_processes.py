"""ESync, SSGD, SSP, ASGD and DC-ASGD on real processes: four workers of speeds 1 : 2 : 4 : 8.

    python benchmarks/esync_processes.py [--secs 12] [--fastest-ms 100]

One state server (`muster state-server`), one parameter server, four workers, each a process; all five
algorithms go through the same worker loop and differ in who decides how many steps a round has (the state
server, or always one) and in when the parameter server answers a push. A step is a real gradient step of a
linear classifier on digits, stretched by sleep to 100, 200, 400 and 800 ms: what is measured is waiting.
The simulated times come from the same state table on a virtual clock. Since 8 x 100 ms is exactly 800 ms,
the rule sits on its edge, and the margin is half a step of the fastest, the other way.
Writes docs/img/esync_processes.png and the table in docs/benchmarks.md. Needs [net] and [report].
"""

from __future__ import annotations

import argparse
import heapq
import json
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from marked import write_between

ROOT = Path(__file__).parent.parent
NUM_WORKERS, FEATURES, CLASSES = 4, 65, 10
BATCH, RATE, LAMBDA, SLACK = 32, 0.2, 0.04, 3
SIZE = FEATURES * CLASSES
HEAD = struct.Struct("<idd")  # 1: stop; when the push was there, when it was answered
NAMES = {"esync": "ESync", "ssgd": "SSGD", "ssp": f"SSP, slack {SLACK}", "asgd": "ASGD", "dcasgd": "DC-ASGD"}


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    content = b""
    while len(content) < size:
        if not (piece := connection.recv(size - len(content))):
            raise ConnectionError("the other end has gone")
        content += piece
    return content


class ParameterServer:
    """Answers each push with the newest model, when the algorithm's rule says so."""

    def __init__(self, rule: str, secs: float) -> None:
        self.rule, self.model, self.end = rule, np.zeros(SIZE, np.float32), time.monotonic() + secs
        self.sent = [self.model] * NUM_WORKERS  # DC-ASGD: what each worker has
        self.clock, self.num_updates = [0] * NUM_WORKERS, 0
        self.waiting: dict[int, np.ndarray[Any, Any]] = {}
        self.round, self.stop, self.turn = 0, False, threading.Condition()

    def push(self, rank: int, delta: np.ndarray[Any, Any]) -> tuple[bool, np.ndarray[Any, Any]]:
        """Takes an update; returns whether to stop, and the model to go on from."""
        with self.turn:
            self.num_updates += 1
            if self.rule in ("esync", "ssgd"):
                self._barrier(rank, delta)
            else:
                if self.rule == "dcasgd":
                    gradient = -delta / RATE
                    delta = delta - RATE * LAMBDA * gradient * gradient * (self.model - self.sent[rank])
                self.model = self.model + delta
                self.clock[rank] += 1
                self.stop |= time.monotonic() >= self.end
                self.turn.notify_all()
                if self.rule == "ssp":
                    self.turn.wait_for(lambda: self.stop or self.clock[rank] - min(self.clock) <= SLACK)
            self.sent[rank] = self.model
            return self.stop, self.model

    def _barrier(self, rank: int, delta: np.ndarray[Any, Any]) -> None:
        self.waiting[rank], mine = delta, self.round
        if len(self.waiting) == NUM_WORKERS:
            self.model = self.model + np.mean([self.waiting[k] for k in sorted(self.waiting)], 0)
            self.waiting, self.round = {}, self.round + 1
            self.stop = time.monotonic() >= self.end
            self.turn.notify_all()
        self.turn.wait_for(lambda: self.round > mine)

    def serve(self, connection: socket.socket) -> None:
        """One worker, to the end of the run."""
        with connection:
            (rank,) = struct.unpack("<i", receive(connection, 4))
            stop = False
            while not stop:
                delta = np.frombuffer(receive(connection, 4 * SIZE), np.float32)
                came = time.monotonic()
                stop, model = self.push(rank, delta)
                connection.sendall(HEAD.pack(stop, came, time.monotonic()) + model.tobytes())


def data(part: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images with a constant column, and labels."""
    from muster.data.digits import Digits

    raw = Digits().load()
    examples = raw.train if part == "train" else raw.test
    x = np.asarray(examples.x).reshape(len(examples), -1)
    return np.hstack([x, np.ones((len(x), 1), np.float32)]).astype(np.float32), np.asarray(examples.y)


def work(
    rank: int, rule: str, port: int, state_port: int, step_secs: float
) -> list[tuple[str, float, float]]:
    """The worker loop of all five algorithms; returns what it did when."""
    from muster.net.state_client import StateClient
    from muster.net.state_messages import Action

    x, y = data("train")
    x, y, draw = x[rank::NUM_WORKERS], y[rank::NUM_WORKERS], np.random.default_rng(rank)
    spans: list[tuple[str, float, float]] = []

    def step(model: np.ndarray[Any, Any]) -> float:
        began = time.monotonic()
        chosen = draw.integers(len(x), size=BATCH)
        weights = model.reshape(FEATURES, CLASSES)
        scores = np.exp(x[chosen] @ weights - (x[chosen] @ weights).max(1, keepdims=True))
        slope = scores / scores.sum(1, keepdims=True)
        slope[np.arange(BATCH), y[chosen]] -= 1
        weights -= RATE * (x[chosen].T @ slope / BATCH)
        time.sleep(max(began + step_secs - time.monotonic(), 0))
        spans.append(("compute", began, time.monotonic()))
        return spans[-1][2] - began

    state = StateClient("127.0.0.1", state_port, rank) if rule == "esync" else None
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(struct.pack("<i", rank))
        model, number, took, sending, stop = np.zeros(SIZE, np.float32), 0, 0.0, 0.0, False
        took = step(model.copy())  # to know its speed; thrown away
        spans.clear()
        while not stop:
            sent, made = model.copy(), 0
            if state is not None:
                state.report(number, took, sending)
            while True:
                if state is not None:
                    action, steps = state.query(number, made, took, sending)
                    if action is not Action.TRAIN:
                        break
                else:
                    steps = 1
                for _ in range(steps):
                    took = step(model)
                made += steps
                if state is None:
                    break
            began = time.monotonic()
            server.sendall((model - sent).tobytes())
            flag, came, left = HEAD.unpack(receive(server, HEAD.size))
            model = np.frombuffer(receive(server, 4 * SIZE), np.float32).copy()
            sending, stop, number = came - began, bool(flag), number + 1
            spans.append(("wait", came, left))
    return spans


def measured(rule: str, secs: float, steps: list[float], margin: float) -> dict[str, Any]:
    """Runs one algorithm on processes."""
    command = [sys.executable, "-m", "muster", "state-server", "--insecure", "--port", "0"]
    listener = socket.create_server(("127.0.0.1", 0))
    with subprocess.Popen([*command, f"--margin-secs={margin}"], stdout=subprocess.PIPE, text=True) as states:
        assert states.stdout is not None
        state_port = int(states.stdout.readline().rpartition(":")[2])
        if rule == "esync":
            from muster.net.state_client import StateClient

            StateClient("127.0.0.1", state_port, 0).reset(NUM_WORKERS)
        server = ParameterServer(rule, secs)
        ports = ["--port", str(listener.getsockname()[1]), "--state-port", str(state_port)]
        workers = [
            subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    "--worker",
                    str(k),
                    "--rule",
                    rule,
                    *ports,
                    "--step",
                    str(steps[k]),
                ],
                stdout=subprocess.PIPE,
                text=True,
            )
            for k in range(NUM_WORKERS)
        ]
        connections = [listener.accept()[0] for _ in workers]
        server.end = time.monotonic() + secs
        for connection in connections:
            threading.Thread(target=server.serve, args=(connection,), daemon=True).start()
        said = [worker.communicate()[0] for worker in workers]
        states.terminate()
    listener.close()
    x, y = data("test")
    accuracy = float(((x @ server.model.reshape(FEATURES, CLASSES)).argmax(1) == y).mean())
    spans = [[(kind, a, b) for kind, a, b in json.loads(text)] for text in said]
    return {"spans": spans, "accuracy": accuracy, "updates": server.num_updates}


def simulated(
    rule: str, steps: list[float], margin: float, rounds: int
) -> list[list[tuple[str, float, float]]]:
    """Rounds of ESync or SSGD on a virtual clock, by the state table that the state server has."""
    from muster.net.state_messages import Action, Status
    from muster.net.state_table import NS, Rules, query, report, reset

    table, now = reset(NUM_WORKERS, 0, 0), 0
    spans: list[list[tuple[str, float, float]]] = [[] for _ in steps]
    for number in range(rounds):
        for k, secs in enumerate(steps):
            table, _ = report(table, Status(k, 0, number, secs, generation=min(number, 1)), now)
        due, done = [(now, k, 0) for k in reversed(range(NUM_WORKERS))], [0] * NUM_WORKERS
        heapq.heapify(due)
        while due:
            at, k, made = heapq.heappop(due)
            fits = int(made == 0)
            if rule == "esync":
                status = Status(k, made, number, steps[k], generation=1)
                table, answer = query(table, status, Rules(margin_secs=margin), at)
                fits = answer.steps if answer.action is Action.TRAIN else 0
            for i in range(fits):
                begin = at / NS + i * steps[k]
                spans[k].append(("compute", begin, begin + steps[k]))
            if fits:
                heapq.heappush(due, (at + round(fits * steps[k] * NS), k, made + fits))
            else:
                done[k] = at
        now = max(done)
        for k in range(NUM_WORKERS):
            spans[k].append(("wait", done[k] / NS, now / NS))
    return spans


def facts(spans: list[list[tuple[str, float, float]]]) -> dict[str, Any]:
    """Median steps of a round by worker, and the share of the workers' time that they waited for others.

    The first round, in which speeds become known, and the last are left out.
    """
    steps = []
    for mine in spans:
        ends = [i for i, span in enumerate(mine) if span[0] == "wait"]
        counts = [b - a - 1 for a, b in pairwise([-1, *ends])]
        steps.append(statistics.median(counts[1:-1] or counts))
    waits = [[span for span in mine if span[0] == "wait"] for mine in spans]
    first, last = max(w[0][2] for w in waits), min(w[-1][2] for w in waits)
    idle = sum(min(b, last) - max(a, first) for w in waits for _, a, b in w if a < last and b > first)
    rounds = statistics.median(len(w) for w in waits)
    return {"steps": steps, "idle": idle / (NUM_WORKERS * (last - first)), "rounds": rounds}


def gantt(axes: Any, spans: list[list[tuple[str, float, float]]], secs: float, title: str) -> None:
    """Steps and waiting of the four workers, from the second round on."""
    start = max(next(b for kind, _, b in mine if kind == "wait") for mine in spans)
    colours = {"compute": "#0072b2", "wait": "#d9d9d9"}
    for k, mine in enumerate(spans):
        for kind, a, b in mine:
            if b > start and a < start + secs:
                axes.barh(
                    -k, b - a, left=a - start, height=0.7, color=colours[kind], edgecolor="white", lw=0.6
                )
    axes.set(xlim=(0, secs), yticks=[-k for k in range(4)], yticklabels=[f"worker {k}" for k in range(4)])
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def draw(found: dict[str, Any], expected: dict[str, Any], secs: float, path: Path) -> None:
    """Measured above simulated, ESync beside SSGD."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for column, rule in enumerate(("esync", "ssgd")):
        for row, (spans, how) in enumerate(
            ((found[rule]["spans"], "measured"), (expected[rule], "simulated"))
        ):
            share = facts(spans)["idle"]
            gantt(axes[row][column], spans, secs, f"{NAMES[rule]}, {how}: {share:.0%} of the time is waiting")
    for axis in axes[1]:
        axis.set_xlabel("seconds; blue: a step, grey: waiting for others")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs all five and writes the table and the picture; with --worker, is one worker."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--secs", type=float, default=12.0, help="how long each algorithm runs")
    parser.add_argument("--fastest-ms", type=float, default=100.0)
    for name, kind in (("worker", int), ("rule", str), ("port", int), ("state-port", int), ("step", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        print(json.dumps(work(args.worker, args.rule, args.port, args.state_port, args.step)))
        return
    steps = [args.fastest_ms / 1000 * 2**k for k in range(NUM_WORKERS)]
    margin = -steps[0] / 2
    found = {rule: measured(rule, args.secs, steps, margin) for rule in NAMES}
    expected = {rule: simulated(rule, steps, margin, 8) for rule in ("esync", "ssgd")}
    lines = [
        "| algorithm | steps of a round, by worker | simulated | waiting | simulated | updates | accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for rule, run in found.items():
        now, then = facts(run["spans"]), facts(expected[rule]) if rule in expected else None
        cells = [", ".join(f"{n:g}" for n in now["steps"])]
        cells.append(", ".join(f"{n:g}" for n in then["steps"]) if then else "")
        cells += [f"{now['idle']:.1%}", f"{then['idle']:.1%}" if then else ""]
        lines.append(f"| {NAMES[rule]} | {' | '.join(cells)} | {run['updates']} | {run['accuracy']:.3f} |")
    table = "\n".join(lines)
    print(table)
    draw(found, expected, 4 * steps[-1], ROOT / "docs" / "img" / "esync_processes.png")
    told = f"Each for {args.secs:g} s; steps of {', '.join(f'{1000 * s:g}' for s in steps)} ms.\n\n{table}"
    write_between(ROOT / "docs" / "benchmarks.md", "esync processes", told)


if __name__ == "__main__":
    main()

"""Does memory grow with the participants of a round, and what does the one shared model save?

    python benchmarks/memory.py [--works A,B,D]

Works A and B (see peers/workload.py) with 10 to 10,000 participants a round; A with 1,200 clients. Work D, 40
participants of ConvNet2, in one process and in two workers, beside a loop in torch that keeps every client's
model until all are there. One SGD step a client: more change no memory. Each setting is a run of its own
process; data sets are prepared before. What counts is asked for every 20 ms, of the run's processes together:
anonymous and shared memory by PSS (a page that n processes share counts 1/n), and the pages of files
(libraries, data) that the process with most of them holds. By PSS these would count less while other programs
on the machine use the same libraries. Writes a table to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from marked import write_between

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
MODELS = {
    "A": f"{PEERS}/torch_models.py:WorkA",
    "B": {"name": "mlp", "hidden": [64]},
    "D": {"name": "convnet2"},
}
SIZES = {"A": (10, 100, 1000), "B": (10, 100, 1000, 10_000), "D": (40,)}
MODEL_BYTES = 4 * 6_603_902

LIBRARIES = """
import subprocess, sys, time, torch, muster.compose, muster.learn.torch_learner
torch.nn.Linear(10, 10)(torch.zeros(2, 10)).sum().backward()
if more := int(sys.argv[2]):
    subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[1], str(more - 1)], check=True)
time.sleep(0.1)
"""
"""In a process, and in so many more: each starts the next and waits for it."""

KEEPS = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from torch_models import model
from workload import workload
torch.set_num_threads(1)
work, net, kept = workload("D"), model("D"), []
start = {k: v.clone() for k, v in net.state_dict().items()}
for i in work.cohort(0):
    net.load_state_dict(start)
    x, y = (torch.from_numpy(a[:10]) for a in work.clients[i])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    kept.append({k: v.clone() for k, v in net.state_dict().items()})
mean = {k: sum(each[k] for each in kept) / len(kept) for k in start}
"""


def held(pid: int) -> int:
    """By a process and all that it has started, in bytes."""
    own, files, waiting = 0, [0], [pid]
    while waiting:
        one = waiting.pop()
        with suppress(OSError, ProcessLookupError):  # it has ended meanwhile
            for name in ("Pss_Anon:", "Pss_Shmem:"):
                own += _field(f"/proc/{one}/smaps_rollup", name)
            files.append(_field(f"/proc/{one}/status", "RssFile:"))
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return own + max(files)


def _field(path: str, name: str) -> int:
    """A field of a file of /proc in kB, as bytes; 0 of a process that is ending."""
    lines = Path(path).read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def peak(command: list[str]) -> int:
    """The most that is held while a command runs."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")])}
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env | {"OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0, command
    return most


def run(work: str, participants: int, workers: int = 1, rounds: int = 2) -> int:
    """The most that a run holds."""
    job = {
        "data": {"name": f"{PEERS}/peer_muster.py:Work", "work": work, "copies": 6 if work == "A" else 1},
        "model": MODELS[work],
        "algorithm": {"name": "fedavg", "pace": {"cohort": participants, "over_commit": 1}},
        "population": "always_on",
        "train": {"steps": 1, "batch_size": 20 if work == "A" else 10},
        "engine": {"workers": workers},
        "stop": {"rounds": rounds},
        "track": {"checkpoint_every": 10**9},
    }
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "memory.yml"
        conf.write_text(json.dumps(job))
        return peak([sys.executable, "-m", "muster", "run", str(conf), "--out", f"{folder}/out", "--json"])


def main() -> None:
    """Prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", default="A,B,D")
    args = parser.parse_args()
    for work in args.works.split(","):
        run(work, 10, rounds=1)  # prepares the data
        if work == "D":
            lines = shared()
        else:
            lines = ["| participants a round | peak memory | ratio |", "| --- | --- | --- |"]
            peaks = {count: run(work, count) for count in SIZES[work]}
            lines += [f"| {n:,} | {v / 1e6:.1f} MB | {v / peaks[10]:.3f} |" for n, v in peaks.items()]
        print("\n".join(lines), flush=True)
        write_between(HERE.parent / "docs/benchmarks.md", f"memory-{work}", "\n".join(lines))


def shared() -> list[str]:
    """Work D: the table of one shared model beside one for each client."""
    libraries = [peak([sys.executable, "-c", LIBRARIES, LIBRARIES, str(more)]) for more in (0, 2)]
    data = 200 * 134 * (28 * 28 * 4 + 8)
    lines = [
        "| work D, 40 participants | peak memory | beyond libraries and data, in models |",
        "| --- | --- | --- |",
    ]
    found = {
        "one process": (run("D", 40), 0),
        "two workers and the server": (run("D", 40, workers=2), 1),
        "a loop that keeps 40 models": (peak([sys.executable, "-c", KEEPS, str(PEERS)]), 0),
    }
    for name, (value, several) in found.items():
        rest = (value - data - libraries[several]) / MODEL_BYTES
        lines.append(f"| {name} | {value / 1e6:.0f} MB | {rest:.1f} |")
    alone, three = (f"{value / 1e6:.0f} MB" for value in libraries)
    told = f"The libraries alone (torch, Muster, one backward): {alone}, in three processes {three}; "
    return [*lines, "", f"{told}the data: {data / 1e6:.0f} MB; a model: {MODEL_BYTES / 1e6:.1f} MB."]


if __name__ == "__main__":
    main()

"""Flower's SuperLink under the load of load.py: the same number of clients, the same numbers each.

Flower lives in a virtual environment of its own, `python -m venv DIR; DIR/bin/pip install flwr`, and
MUSTER_FLOWER names its interpreter, DIR/bin/python; the default is in ~/.cache/muster-peers/superlink. What
runs is Flower's: its SuperLink (state in memory, as by default), its own SuperNode client for each of the
clients, and an app of its Grid and FedAvg (flower_load/).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_processes import HERE, Process, Usage, wait_for

PYTHON = Path.home() / ".cache/muster-peers/superlink/v/bin/python"
APP = """
[project]
name = "load"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "load"

[tool.flwr.app.components]
serverapp = "load.app:app"
clientapp = "load.app:client"

[tool.flwr.app.config]
folder = "{folder}"
count = {count}
size = {size}
"""
CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""
NODES = 100
"""SuperNodes in one process at most: each is a thread."""
ROUND_SECS = 300.0
"""A round that takes longer is given up."""


class MissingError(Exception):
    """Flower is not here, with what to do."""


class FailedError(Exception):
    """A round did not come to its end, and why."""


def installed() -> tuple[Path, str]:
    """Flower's interpreter and version.

    Raises:
        MissingError: There is none.
    """
    python = Path(os.environ.get("MUSTER_FLOWER", PYTHON))
    asked = "from importlib.metadata import version; print(version('flwr'))"
    try:
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    except OSError as error:
        raise MissingError(
            f"Flower is not measured: no interpreter at {python} ({error.strerror}). Make one with "
            f"`python -m venv {python.parent.parent}` and `{python.parent}/pip install flwr`, or name "
            "another in MUSTER_FLOWER"
        ) from error
    if done.returncode:
        raise MissingError(
            f"Flower is not measured: {python} has no flwr; `{python} -m pip install flwr` installs it"
        )
    return python, done.stdout.strip()


@dataclass
class SuperLink:
    """A SuperLink with an app that has begun its first round, and all its SuperNodes."""

    version: str
    folder: Path
    link: Usage
    app: Usage
    swarms: list[Process]
    number: int = 0

    def round(self) -> dict[str, Any]:
        """One round, downloads first, and what the SuperLink and the app have used; the next is opened.

        Raises:
            FailedError: A process has ended, or the round takes longer than ROUND_SECS.
        """
        late = threading.Timer(ROUND_SECS, lambda: [stopped(each.pid) for each in (*self.swarms, self.link)])
        late.start()
        try:
            return self._round()
        except SystemExit as error:
            why = f"after {ROUND_SECS:g} s" if late.finished.is_set() else f"since {error}"
            raise FailedError(f"given up {why}") from error
        finally:
            late.cancel()

    def _round(self) -> dict[str, Any]:
        both = (self.link, self.app)
        for each in both:
            each.reset_peak()
        down = self.all("round")
        for swarm in self.swarms:
            swarm.answer()  # the replies are made
        peak_down, cpu = self.link.status("VmHWM"), [each.cpu_secs() for each in both]
        for each in both:
            each.reset_peak()
        began = time.monotonic()
        (self.folder / f"go-{self.number}").touch()
        up = self.all("send")
        acks = [secs for told in up for secs in told["acks"]]
        read(self.folder / f"made-{self.number}.json", self.link)
        made = time.monotonic() - began
        used = [each.cpu_secs() - before for each, before in zip(both, cpu, strict=True)]
        found = {
            "secs_down": max(told["secs_down"] for told in down),
            "down_bytes": sum(told["down_bytes"] for told in down),
            "secs_up": max(told["secs_up"] for told in up),
            "up_bytes": sum(told["up_bytes"] for told in up),
            "secs_made": made,
            "acks": acks,
            "cpu": sum(used),
            "peak": self.link.status("VmHWM"),
            "peak_down": peak_down,
            "peak_app": self.app.status("VmHWM"),
        }
        self.number += 1
        sent = read(self.folder / f"sent-{self.number}.json", self.link)
        return {**found, "secs_tasks": sent["secs"]}

    def all(self, line: str) -> list[dict[str, Any]]:
        """Says a line to all swarms; their answers."""
        for swarm in self.swarms:
            swarm.write(line)
        return [swarm.answer() for swarm in self.swarms]


def read(path: Path, server: Usage, secs: float = 600.0) -> dict[str, Any]:
    """What the app says in a file, when it is there."""
    until = time.monotonic() + secs
    while not path.exists():
        if time.monotonic() > until:
            raise SystemExit(
                f"Flower's app has not written {path.name} in {secs:g} s; see {path.parent}/log.txt"
            )
        server.cpu_secs()  # is it still there?
        time.sleep(0.02)
    return dict(json.loads(path.read_text()))


def ended(process: subprocess.Popen[bytes]) -> None:
    """Ends a process."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stopped(pid: int) -> None:
    """Ends a process that is none of our own, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def superlink(clients: int, size: int) -> Iterator[SuperLink]:
    """Flower with so many SuperNodes, whose models have `size` numbers.

    Raises:
        MissingError: It is not installed.
    """
    python, version = installed()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-load-")))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        package = folder / "app/load"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(HERE / "flower_load/app.py", package)
        (package.parent / "pyproject.toml").write_text(APP.format(folder=folder, count=clients, size=size))
        (folder / "config.toml").write_text(CONNECTION.format(port=port))
        env = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        log = stack.enter_context((folder / "log.txt").open("w"))
        listen = ("--host", "127.0.0.1", "--port", str(port))
        options = ("--insecure", "--disable-runtime-dependency-installation")
        server = subprocess.Popen(
            [python, python.parent / "flower-superlink", *options, *listen],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(ended, server)
        wait_for(port)
        link = Usage(server.pid)
        subprocess.run(
            [python.parent / "flwr", "run", package.parent, "here"],
            env=env,
            stdout=log,
            stderr=log,
            check=True,
        )
        app = Usage(read(folder / "started.json", link, 120.0)["pid"])
        stack.callback(stopped, app.pid)  # before its SuperLink, which would leave it behind
        swarms = []
        for first in range(0, clients, NODES):
            numbers = ("--first", first, "--count", min(NODES, clients - first), "--size", size)
            script = HERE / "flower_load/swarm.py"
            address = f"127.0.0.1:{port}"
            swarms.append(Process(script, address, *numbers, python=python, env=env, log=log))
            stack.callback(swarms[-1].close)
        for swarm in swarms:
            swarm.answer()
        read(folder / "sent-0.json", link)
        yield SuperLink(version, folder, link, app, swarms)

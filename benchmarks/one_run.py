"""One run of a benchmark's script in a process of its own; its last line is its figures."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class FailedError(Exception):
    """A run that ended badly or told no figures; with the last lines that it wrote."""


def once(
    command: Sequence[str], more: Mapping[str, str] | None = None, one_thread: bool = True
) -> dict[str, Any]:
    """Runs a command and reads the last line of JSON that it prints.

    Args:
        command: Interpreter, script and arguments.
        more: Environment variables to add.
        one_thread: Whether others are added that keep it to one thread a process.

    Raises:
        FailedError: It ended with another code than 0, or printed no such line.

    """
    threads = ONE_THREAD if one_thread else {}
    kept = {name: value for name, value in os.environ.items() if one_thread or name not in ONE_THREAD}
    done = subprocess.run(command, env={**kept, **threads, **(more or {})}, capture_output=True, text=True)
    figures = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not figures:
        raise FailedError("\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    found = json.loads(figures[-1])
    assert isinstance(found, dict)
    return found

"""What configs/shakespeare.yml reaches, against always saying the most frequent character.

    python benchmarks/shakespeare.py

Writes the line to docs/benchmarks.md. Needs MUSTER_DATA and the extra [torch].
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from marked import write_between

from muster.data.store import prepare
from muster.job import load_job

ROOT = Path(__file__).parent.parent
CONF = ROOT / "configs/shakespeare.yml"


def main() -> None:
    """Runs the job, prints and writes the comparison."""
    job = load_job(CONF)
    data = prepare(job.data, job.seed)
    share = np.bincount(np.asarray(data.test.y)).max() / len(data.test)
    out = Path(tempfile.mkdtemp()) / "shakespeare"
    subprocess.run([sys.executable, "-m", "muster", "run", str(CONF), "--out", str(out)], check=True)
    summary = json.loads((out / "summary.json").read_text())
    line = (
        f"{data.num_clients} roles, {data.facts.num_classes} characters, {summary['rounds']} rounds of 10: "
        f"accuracy {summary['metrics']['accuracy']:.4f}; always the most frequent character: {share:.4f}. "
        f"Virtual time {summary['virtual_secs'] / 3600:.2f} h, wall time {summary['wall_secs']:.0f} s."
    )
    print(line)
    write_between(ROOT / "docs/benchmarks.md", "shakespeare", line)


if __name__ == "__main__":
    main()

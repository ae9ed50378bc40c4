"""Feeds the decoders of fuzz.py inputs that are led by which lines of Muster they reach, with atheris.

    python -m venv V && V/bin/pip install -e '.[net]' atheris && V/bin/python tools/fuzz_guided.py [--secs 20]

Each decoder has a process of its own for so long, which begins with fuzz.py's messages and changes what has
reached new lines. What counts as a finding is fuzz.py's: an error that the decoder's docstring does not name;
and an input that takes two minutes, or has the process grow beyond its limit. Ends with 1 then.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
LIMIT_MB = 1024
"""Memory of a process, of which the libraries and what atheris knows take some hundreds."""


def guided(number: int, secs: int, folder: Path) -> None:
    """Feeds the decoder of that number; does not return."""
    import atheris

    with atheris.instrument_imports(include=["muster"]):
        import fuzz

    target = fuzz.targets(folder)[number]
    corpus = folder / "corpus"
    corpus.mkdir()
    for at, whole in enumerate((*target.whole, *target.hostile)):
        (corpus / str(at)).write_bytes(whole)

    def feed(data: bytes) -> None:
        if why := fuzz.tried(target, data, traced=False):
            raise RuntimeError(f"finding: {why}: {data[:200]!r}")

    longest = 2 * max(map(len, (*target.whole, *target.hostile)))
    limits = (f"-max_total_time={secs}", "-timeout=120", f"-rss_limit_mb={LIMIT_MB}", f"-max_len={longest}")
    atheris.Setup(
        [sys.argv[0], str(corpus), *limits, "-print_final_stats=1", f"-artifact_prefix={folder}/"], feed
    )
    atheris.Fuzz()


def told(output: str) -> tuple[int, int]:
    """How many inputs there were and how many places in the code they reached, by what libFuzzer prints."""
    units = re.findall(r"stat::number_of_executed_units:\s*(\d+)", output)
    reached = re.findall(r"\bcov: (\d+)", output)
    return int(units[-1]) if units else 0, int(reached[-1]) if reached else 0


def main() -> None:
    """Fuzzes one decoder after another and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=int, default=20, help="for each decoder")
    parser.add_argument("--number", type=int, help="only this decoder, in this process")
    args = parser.parse_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        raise SystemExit(
            "atheris is not installed here: pip install atheris, or take tools/fuzz.py"
        ) from None
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        if args.number is not None:
            guided(args.number, args.secs, Path(name))
        import fuzz

        listed, total, failed = fuzz.targets(Path(name)), 0, 0
        for number, target in enumerate(listed):
            command = (sys.executable, __file__, "--secs", str(args.secs), "--number", str(number))
            done = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False)
            output = done.stdout.decode(errors="replace")
            inputs, reached = told(output)
            total += inputs
            print(f"{target.name}: {inputs:,} inputs, {reached:,} places reached", flush=True)
            if done.returncode or not inputs:
                failed += 1
                print(output[-3000:])
        print(f"{total:,} inputs to {len(listed)} decoders: {failed} of them with findings")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

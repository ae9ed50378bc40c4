"""Do the robust rules hold when a fifth of the clients turn the signs of their updates?

    python benchmarks/attacks.py [--rounds 40] [--seeds 2]

FashionMNIST over 25 clients who all take part in each round (20 steps of 20), MLP; five of them send three
times the opposite of what they have learnt. Each rule with and without them, iid and by Dirichlet(0.5); the
rules are told that there are five. Writes its table to docs/benchmarks.md. Needs MUSTER_DATA and [torch].
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from marked import write_between

import muster

RULES: dict[str, Any] = {
    "mean": {"name": "mean", "by": "uniform"},
    "median": "median",
    "trimmed mean": {"name": "trimmed_mean", "trim": 0.2},
    "Krum": {"name": "krum", "num_liars": 5},
    "Multi-Krum": {"name": "krum", "num_liars": 5, "num_picks": None},
    "Bulyan": {"name": "bulyan", "num_liars": 5},
    "geometric median": "geometric_median",
    "centred clipping": {"name": "centred_clipping", "radius": 1.0},
    "norm bound": {"name": "bounded", "max_norm": 1.0},
}
PARTITIONS: dict[str, Any] = {
    "iid": {"name": "iid", "num_clients": 25},
    "Dirichlet(0.5)": {"name": "dirichlet", "num_clients": 25, "alpha": 0.5},
}
ATTACK = {"name": "sign_flip", "share": 0.2, "scale": 3.0}


def accuracy(rule: Any, partition: Any, attack: Any, rounds: int, seed: int) -> float:
    """The mean of the last three evaluations."""
    job = {
        "data": {"name": "fashion_mnist", "partition": partition},
        "model": "mlp",
        "population": "always_on",
        "algorithm": {"pace": {"cohort": 25}, "combine": rule},
        "attack": attack,
        "train": {"steps": 20},
        "engine": {"workers": 1},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 5},
        "seed": seed,
    }
    records = [record for record in muster.simulate(job) if record.metrics]
    return statistics.mean(record.metrics["accuracy"] for record in records[-3:])


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE")
    args = parser.parse_args()
    lines = [
        "| partition | rule | no attack | 20 % sign-flippers | under the mean without attack |",
        "| --- | --- | --- | --- | --- |",
    ]
    for where, partition in PARTITIONS.items():
        best = 0.0
        for name, rule in ((name, RULES[name]) for name in args.rules):
            clean, attacked = (
                statistics.mean(
                    accuracy(rule, partition, attack, args.rounds, seed) for seed in range(args.seeds)
                )
                for attack in (None, ATTACK)
            )
            best = best or clean
            lines.append(
                f"| {where} | {name} | {clean:.4f} | {attacked:.4f} | {100 * (best - attacked):.1f} points |"
            )
            print(lines[-1], flush=True)
    text = "\n".join([f"{args.rounds} rounds of 25 clients, mean of {args.seeds} seeds.", "", *lines])
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "attacks", text)


if __name__ == "__main__":
    main()

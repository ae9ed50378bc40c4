"""Fits what `muster.devices` draws from: phones' compute, links, memory and hours online.

    MUSTER_DATA=... python tools/fit_devices.py

Reads $MUSTER_DATA/traces and writes src/muster/devices/fitted.py: parameters only, no rows. Fitted are

- percentiles of compute and of ln(kbit/s), to the rows of FedScale's trace
  that could be recovered; the ends are the whole trace's, as printed;
- how long phones are online, in how many sessions, and how unequal those are: so that hours online of
  the first 96 have the quantiles of the whole trace's published plot, and sessions its printed mean;
- at what hour sessions begin: non-negative least squares, so that the share online by hour of day is
  that of the published curve (cleaned of strokes of the plot, less its falling trend);
- links up against down, and memory, from FLASH's tables.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from muster.devices import diurnal, fitted

PLACE = Path(__file__).parents[1] / "src/muster/devices/fitted.py"
DEVICES = 107_749
HOURS = {0.0: 0.0, 0.05: 2.2, 0.25: 8, 0.5: 14.8, 0.75: 24, 0.9: 35, 0.95: 42, 0.99: 56, 1.0: 96}
"""Hours online of the first 96, at quantiles: read off the published histogram of FedScale's trace."""
MEAN_ONLINE = 0.182
"""Share of time: between the first 96 h of the trace (0.176) and the mean of its rows (0.203)."""
MEAN_SESSIONS = 20.81
"""As printed for the whole trace."""
PRINTED = {"ms": (15.0, 199.0), "kbps": (1016.8808511071711, 204056.74594524835)}
"""Ends of the whole trace's two columns, as printed."""
SESSIONS_MOST = 300
"""Sessions of a week at most: the longest of the known rows has 138 in eight days."""
HOUR = 3600 * 10**9
"""Nanoseconds."""
ZONE_SPREAD = 1.0
"""Hours; the default of `mobile`."""


def columns(path: Path) -> np.ndarray:
    """A CSV file's numbers f64[rows, columns]."""
    return np.genfromtxt(path, delimiter=",", skip_header=1)


def shares() -> np.ndarray:
    """Where the grids stand: percentiles."""
    return np.arange(101) / 100


def grid(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Quantiles of `values` at `shares()`."""
    found = np.quantile(values, shares(), method="median_unbiased")
    found[[0, -1]] = ends
    return found


def daily_curve(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Online devices at hours 1..95, cleaned, and the curve of one day: f64[24], 1 on average."""
    hour, count = columns(place / "available_clients_over_time_digitised.csv").T
    beside = np.lib.stride_tricks.sliding_window_view(np.pad(count, 2, mode="edge"), 5)
    hours = np.arange(1, 96)
    count = np.interp(hours, hour, np.median(beside, axis=1))
    relative = count / np.polyval(np.polyfit(hours, count, 1), hours)
    day = np.array([relative[hours % 24 == k].mean() for k in range(24)])
    return count, day / day.mean()


def known_rows(place: Path) -> tuple[float, float]:
    """Standard deviations of ln(sessions), and of ln(seconds) within a row, of the rows that are known.

    They are the trace's first ten and one more, those with the most hours: not typical, so only shown.
    """
    rows = [*json.loads((place / "availability_known_rows.json").read_text()).values()]
    rows += json.loads((place / "first10_printed_excerpt.json").read_text())["client_behave_trace"].values()
    rows = [row for row in rows if row["duration"] > 1]  # the last rows of the file are chosen for 1 s
    number = np.log([len(row["active"]) for row in rows])
    within = [np.log(np.maximum(np.subtract(r["inactive"], r["active"]), 1)) for r in rows]
    spread = np.sqrt(sum(((w - w.mean()) ** 2).sum() for w in within) / sum(len(w) - 1 for w in within))
    return float(number.std(ddof=1)), float(spread)


def hours_of_96(num: int, seed: int) -> np.ndarray:
    """Hours online in the first 96, f64[num], of as many draws."""
    found = diurnal.weeks(num, seed)
    trace = np.repeat(np.arange(num), np.diff(found.offsets))
    inside = np.clip(found.ends, 0, 96 * HOUR) - np.clip(found.starts, 0, 96 * HOUR)
    return np.bincount(trace, inside / HOUR, num)


def online() -> float:
    """Sets the grid of shares of time so that hours in 96 h come out; returns by how much they are off."""
    at = np.r_[0, 0.025, np.arange(1, 20) / 20, 0.975, 0.99, 1]
    target = np.interp(at, list(HOURS), list(HOURS.values())) / 96
    target *= MEAN_ONLINE / np.trapezoid(target, at)
    share = target.copy()
    for aim in range(6):  # chance adds to the spread between phones: aim at less
        fitted.ONLINE_SHARES, fitted.ONLINE = tuple(at), tuple(np.clip(share, 0, 0.98))
        found = np.quantile(hours_of_96(20_000, 4 + aim), at) / 96
        off = float(np.abs(np.log(found[1:-1] / target[1:-1])).mean())
        share[1:-1] *= (target[1:-1] / found[1:-1]) ** 0.5
        share = np.maximum.accumulate(share)
        share *= MEAN_ONLINE / np.trapezoid(share, at)
    return off


def spreads() -> tuple[float, float]:
    """Standard deviations of ln(sessions) and ln(seconds): the widest with which hours in 96 h come out.

    Hours alone do not tell narrow laws from wider ones; the known rows are wider than all that are tried.
    """
    fitted.STARTS_BY_HOUR = (1.0,) * 24
    off = {}
    for number in (0.6, 0.8, 1.0, 1.2):
        for length in (1.0, 1.5, 2.0):
            fitted.SESSIONS_LOG_SPREAD, fitted.SESSION_SPREAD = number, length
            fitted.SESSIONS_LOG_MEAN = float(np.log(1.3 * MEAN_SESSIONS) - number**2 / 2)
            off[number, length] = online()
            print(f"spreads {number} of sessions, {length} of lengths: hours {off[number, length]:.3f} off")
    return max((pair for pair in off if off[pair] < 0.02), key=lambda pair: pair[0] * pair[1])


def profile(num: int, seed: int) -> np.ndarray:
    """Share of draws online at each hour of day under the parameters of the moment, 1 on average."""
    found = diurnal.weeks(num, seed)
    rows, shift = np.arange(num), diurnal.shifts(num, ZONE_SPREAD, seed)
    hours = [found.online(rows, h * HOUR + shift).mean() for h in range(24)]
    return np.array(hours) / np.mean(hours)


def sessions_log_mean() -> float:
    """Such that MEAN_SESSIONS are left where overlaps are one (with sessions at any hour)."""
    low, high = 0.0, 6.0
    for _ in range(14):
        fitted.SESSIONS_LOG_MEAN = (low + high) / 2
        left = len(diurnal.weeks(20_000, 3).starts) / 20_000
        low, high = (
            (fitted.SESSIONS_LOG_MEAN, high) if left < MEAN_SESSIONS else (low, fitted.SESSIONS_LOG_MEAN)
        )
    return (low + high) / 2


def starts_by_hour(day: np.ndarray) -> np.ndarray:
    """Weights of the hours in which sessions begin, so that the curve of a day comes out."""
    fitted.STARTS_BY_HOUR = (1.0, *[0.0] * 23)
    answer = profile(40_000, 1) / 24  # to sessions that all begin between 0 and 1 h
    matrix = np.array([[answer[(h - k) % 24] for k in range(24)] for h in range(24)]) * 24
    target, best = day.copy(), (np.inf, np.ones(24))
    for _ in range(6):  # overlaps make the answer not quite linear: aim again by what was missed
        smooth = 0.02 * (np.eye(24) - np.roll(np.eye(24), 1, axis=1))
        weights, _ = nnls(np.r_[matrix, smooth * 24], np.r_[target, np.zeros(24)])
        weights *= 24 / weights.sum()
        fitted.STARTS_BY_HOUR = tuple(weights)
        found = profile(40_000, 2)
        missed = float(np.abs(found - day).max())
        print(f"daily curve: {missed:.4f} off at most, correlation {np.corrcoef(found, day)[0, 1]:.4f}")
        if missed < best[0]:
            best = missed, weights
        target = target + 0.7 * (day - found)
    return best[1]


def memory(place: Path) -> tuple[list[int], list[float], float]:
    """MB of phones from 2 GB (the trace has no smaller ones), their shares, and their tie to speed."""
    phones = json.loads((place / "raw_ai_benchmark_list.json").read_text())
    size = {p["Model"]: float(p["RAM"].removesuffix("GB")) for p in phones}
    used = json.loads((place / "real2benchmark.json").read_text()).values()
    count = Counter(size[name] for name in used if size.get(name, 0) >= 2)
    pairs = [(size[p["Model"]], float(p["AI_Score"].split()[0])) for p in phones if p["AI_Score"].split()]
    tie = spearmanr([p for p in pairs if p[0] >= 2]).statistic
    sizes = sorted(count)
    return [int(1024 * s) for s in sizes], [count[s] / count.total() for s in sizes], float(tie)


def up_ratios(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of mean speed up over mean speed down, of FLASH's WiFi links."""
    links = json.loads((place / "speed_distri.json").read_text()).values()
    at = np.arange(11) / 10
    return at, np.quantile([link["up_u"] / link["down_u"] for link in links], at)


HEAD = '''"""What device populations draw from: parameters, fitted by tools/fit_devices.py; do not edit.

Sources: compute and links, 2,023 rows of FedScale's `client_device_capacity` recovered from public logs,
and the whole trace's ends (F. Lai et al.: FedScale, ICML 2022, arXiv:2105.11367; it joined AI-Benchmark
with MobiPerf over WiFi). Hours online, sessions and the daily curve: published plots and printed rows of
FedScale's `client_behave_trace`, which is FLASH's (C. Yang et al.: Characterizing Impacts of Heterogeneity
in Federated Learning upon Large-Scale Smartphone Data, WWW 2021, arXiv:2006.06983). Links up against
down, and memory: FLASH's tables of WiFi speeds and of phones.
"""
'''


def written(name: str, values: object, about: str, digits: int = 6) -> str:
    """One assignment with what it is."""
    if isinstance(values, (list, tuple, np.ndarray)):
        numbers = [f"{float(v):.{digits}g}" for v in values]
        lines, line = [], "   "
        for number in numbers:
            if len(line) + len(number) > 100:
                lines.append(line)
                line = "   "
            line += f" {number},"
        body = "(\n" + "\n".join([*lines, line]) + "\n)"
    else:
        body = f"{float(values):.{digits}g}"  # type: ignore[arg-type]
    return f'{name} = {body}\n"""{about}"""\n'


def main() -> None:
    """Fits everything and writes the module."""
    if "MUSTER_DATA" not in os.environ:
        raise SystemExit("MUSTER_DATA is not set; it names the folder that holds traces/")
    place = Path(os.environ["MUSTER_DATA"]) / "traces"
    recovered = columns(place / "device_capacity_recovered.csv")
    full = columns(place / "device_capacity_quantiles_digitised.csv")
    ms, kbps = grid(recovered[:, 1], PRINTED["ms"]), grid(recovered[:, 2], PRINTED["kbps"])
    far = [np.abs(np.interp(full[4:95, 0], shares(), g) / full[4:95, i] - 1) for i, g in ((1, ms), (2, kbps))]
    print(f"whole trace as read off plots, 5-95 %: {far[0].max():.3f} (ms) and {far[1].max():.3f} (kbps) off")

    print("spreads of the known rows:", known_rows(place))
    fitted.SESSIONS_MOST = SESSIONS_MOST
    fitted.SESSIONS_LOG_SPREAD, fitted.SESSION_SPREAD = spreads()
    fitted.SESSIONS_LOG_MEAN = sessions_log_mean()
    print("hours of 96:", online(), "off")
    _, day = daily_curve(place)
    starts = starts_by_hour(day)
    sizes, size_shares, tie = memory(place / "flash")
    ratio_at, ratios = up_ratios(place / "flash")
    text = [
        HEAD,
        written("SHARES", shares(), "Where the grids of MS and KBPS stand, 0 to 1."),
        written("MS", ms, "Milliseconds of one example's forward pass, quantiles at SHARES."),
        written("KBPS", kbps, "Link in 1,000 bits a second at SHARES; between them it grows geometrically."),
        written("ONLINE_SHARES", fitted.ONLINE_SHARES, "Where the grid of ONLINE stands."),
        written("ONLINE", fitted.ONLINE, "Share of time that a phone is online, quantiles."),
        written(
            "SESSIONS_LOG_MEAN",
            fitted.SESSIONS_LOG_MEAN,
            "Mean of ln(sessions of a week), before those that overlap are one.",
        ),
        written("SESSIONS_LOG_SPREAD", fitted.SESSIONS_LOG_SPREAD, "Standard deviation of ln(sessions)."),
        written("SESSIONS_MOST", SESSIONS_MOST, "Sessions of a week at most."),
        written("SESSION_SPREAD", fitted.SESSION_SPREAD, "Standard deviation of ln(seconds) within a phone."),
        written("STARTS_BY_HOUR", starts, "Weights of the 24 hours in which sessions begin."),
        written("UP_SHARES", ratio_at, "Where the grid of UP_RATIOS stands."),
        written("UP_RATIOS", ratios, "Speed up over speed down of WiFi links, quantiles."),
        written("MEMORY_MB", sizes, "Memory of phones with 2 GB and more."),
        written("MEMORY_SHARES", size_shares, "How many of them have it, 1 in all."),
        written("MEMORY_TIE", tie, "Rank correlation of memory with the speed of inference."),
    ]
    PLACE.write_text("\n".join(text))
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(PLACE)], check=True)


if __name__ == "__main__":
    main()

"""Numbers as people read them: 1.3 MB, 2 h 04 m, 6.6 M."""

from __future__ import annotations

import math

_STEPS = ("", "k", "M", "G", "T", "P")


def bytes_text(num_bytes: float) -> str:
    """Decimal units with three digits at most: 999 B, 1.3 MB, 26.4 MB, 120 GB."""
    number, prefix = _scaled(num_bytes)
    return f"{number} {prefix}B"


def short_count(count: float) -> str:
    """A count of any size in little room: 950, 26.4 k, 6.6 M."""
    number, prefix = _scaled(count)
    return f"{number} {prefix}".rstrip()


def _scaled(amount: float) -> tuple[str, str]:
    """`amount` >= 0 as ("26.4", "M"); the unit is chosen after rounding, so 999,960 is 1.0 M."""
    if not math.isfinite(amount):
        return "-", ""
    for step, prefix in enumerate(_STEPS):
        scaled = amount / 1000**step
        if step == 0:
            text = f"{scaled:.0f}"
        else:
            text = f"{scaled:.1f}" if round(scaled, 1) < 100 else f"{scaled:.0f}"
        if float(text) < 1000:
            return text, prefix
    return f"{amount / 1000 ** (len(_STEPS) - 1):.0f}", _STEPS[-1]


def secs_text(secs: float | None) -> str:
    """A duration in its two leading units: 320 ms, 3.2 s, 2 m 04 s, 2 h 04 m, 3 d 04 h; `-` if unknown."""
    if secs is None or not math.isfinite(secs):
        return "-"
    if secs < 0:
        return f"-{secs_text(-secs)}"
    if secs == 0:
        return "0 s"
    if round(secs * 1000) < 1:
        return "< 1 ms"
    if round(secs * 1000) < 1000:
        return f"{secs * 1000:.0f} ms"
    if round(secs, 1) < 60:
        return f"{secs:.1f} s"
    if round(secs) < 3600:
        return "{} m {:02d} s".format(*divmod(round(secs), 60))
    minutes = round(secs / 60)
    if minutes < 24 * 60:
        return "{} h {:02d} m".format(*divmod(minutes, 60))
    return "{} d {:02d} h".format(*divmod(round(secs / 3600), 24))


def value_text(value: float | None) -> str:
    """A loss or metric in four significant digits or four decimals: 0.9123, 2.3026, 1234; `-` if none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def share_text(part: float, whole: float) -> str:
    """`part` of `whole` as a percentage: 8.4 %; `-` if there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def time_unit(longest_secs: float) -> tuple[float, str]:
    """Seconds in, and name of, the unit in which an axis up to `longest_secs` reads well."""
    units = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")]
    return next(((secs, name) for secs, name in units if longest_secs >= 2 * secs), (1.0, "seconds"))

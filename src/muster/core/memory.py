"""How much memory this process holds, as the system counts it."""

from __future__ import annotations


def peak_rss_bytes() -> int:
    """The most that was ever resident.

    On Linux of /proc: `getrusage` counts what the parent held when it started this process, too.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_bytes() -> int:
    """What is resident and nobody else's: no shared memory, no pages of files. Without /proc: the peak."""
    found = _status("RssAnon")
    return peak_rss_bytes() if found is None else found


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

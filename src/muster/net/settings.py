"""The job's `deploy` section: time-outs, how updates travel, and what the server allows its clients."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.part import Part


@dataclass(frozen=True)
class Deploy(Part):
    """How a job is deployed. Simulations do not look at it."""

    lease_secs: float = 10.0
    """A client that has not been heard of for so long is lost; it sends a heartbeat in half of that."""
    poll_secs: float = 30.0
    """A client's question for work is answered after so long, work or none."""
    call_secs: float = 10.0
    """A call that moves no model and is not answered in so long is made again."""
    stall_secs: float = 30.0
    """A transfer in which nothing has moved for so long is broken off, and goes on where it stopped."""
    retry_secs: float = 10.0
    """The longest wait of a client before it tries again; waits double up to it, with jitter."""
    give_up_secs: float = 600.0
    """A client that has not reached its server for so long ends."""
    start_with: int | None = None
    """Clients that must have joined before the run begins; default: as many as the pace sends work to."""
    zstd: bool = False
    """Pack updates with zstd, which keeps every bit; fewer bits are the job's `compress`."""
    keep_updates: bool = False
    """Keep every update on disk, so that `muster replay` can begin at version 0."""
    quarantine_after: int = 3
    """Tasks in a row, refused or failed in training, after which a client gets no more work."""
    norm_warning: float = 10.0
    """Warn of an accepted update whose norm is more than so many times the median of its version."""
    joins_per_sec: int = 250
    """Clients that are admitted in a second; the others are told when to come back."""

    evaluate: bool = True
    """Versions are evaluated by a process beside the server, which holds the model in memory; false: they are
    not, and it ends when it has made the untrained model."""
    memory_mb: float | None = None
    """A larger model is kept on disk by the server, which then needs no memory for it; default: a sixteenth
    of the machine's memory."""

    def __post_init__(self) -> None:
        for name in ("lease_secs", "poll_secs", "call_secs", "stall_secs", "retry_secs", "give_up_secs"):
            self.check_number(name, above=0, at_most=1e6)
        self.check_number("start_with", at_least=1)
        self.check_number("quarantine_after", at_least=1)
        self.check_number("norm_warning", above=1)
        self.check_number("joins_per_sec", at_least=1)
        self.check_number("memory_mb", at_least=0)

    @property
    def beat_secs(self) -> float:
        """Seconds from one heartbeat to the next."""
        return self.lease_secs / 2

"""ESync's state table and what its messages do to it: pure, so that any order of them can be tested.

Times are integer nanoseconds of the server's monotonic clock. What the paper leaves open and a deployment
needs: a worker that falls silent is no straggler to wait for; one that comes again, or anew, counts as a
straggler from the next round on; SYNC stays SYNC within a round; a question asked twice gets the same
answer; what belongs to an earlier round or life of a worker is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Mapping

from muster.algorithms.esync_rule import Rule, more_steps, slowest
from muster.core.errors import UserError
from muster.core.tables import SECOND, to_ns

from .state_messages import MAX_WORKERS, Action, Status

NS = SECOND


@dataclass(frozen=True)
class Rules:
    """How the table decides.

    Args:
        lease_secs: A worker that is silent for longer (and three times longer than its next word was
            expected to take) is dead.
        margin_secs: Train on only if the step ends so long before the straggler's; below 0: it may end
            later by that much.
        max_steps: The most steps of a round; what ends a round when a prediction never comes true.
        leased: Answer with as many steps as fit, so that fast workers need not ask after each.
        rule: `paper` compares computing and sending, `compute_only` computing alone.
    """

    lease_secs: float = 30.0
    margin_secs: float = 0.0
    max_steps: int = 10_000
    leased: bool = True
    rule: Rule = "paper"


@dataclass(frozen=True)
class Answer:
    """What a worker is told; `steps` are to be made before it asks again (TRAIN only)."""

    action: Action
    steps: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Row:
    """What is known of one worker."""

    rank: int
    heard_ns: int
    generation: int = 0
    round: int = 0
    iteration: int = 0
    compute_ns: int = 0
    send_ns: int = 0
    stamp_ns: int = 0
    """When it entered its round, or made its last step."""
    counts_from: int = 0
    """The first round in which others wait for it."""
    entered: bool = False
    alive: bool = True
    answered: Answer | None = None
    """The answer to its question after `iteration` steps of `round`."""

    @property
    def delay_ns(self) -> int:
        """d = c + m, equation 1."""
        return self.compute_ns + self.send_ns

    @property
    def synced(self) -> bool:
        """It was told to push."""
        return self.answered is not None and self.answered.action is Action.SYNC


@dataclass(frozen=True)
class Table:
    """All workers by rank, and after how many rounds they stop (0: never)."""

    rows: Mapping[int, Row] = field(default_factory=dict)
    num_rounds: int = 0

    def with_row(self, row: Row) -> Table:
        """The table with that row in place of the one of its rank."""
        return replace(self, rows={**self.rows, row.rank: row})

    @property
    def round(self) -> int:
        """The newest round that a live worker has entered."""
        return max((row.round for row in self.rows.values() if row.alive and row.entered), default=0)


class StaleError(UserError):
    """A message of an earlier round, iteration or life of a worker: it changes nothing."""


def reset(num_workers: int, num_rounds: int, now_ns: int) -> Table:
    """`num_workers` fresh rows: they count from the start, and are dead if they do not report in time."""
    if not 1 <= num_workers <= MAX_WORKERS:
        raise UserError(f"RESET is for 1 to {MAX_WORKERS} workers, not for {num_workers}")
    return Table({rank: Row(rank, now_ns) for rank in range(num_workers)}, num_rounds)


def lapsed(table: Table, rules: Rules, now_ns: int) -> Table:
    """The table with those that were silent for too long marked dead."""
    for row in table.rows.values():
        patience = max(to_ns(rules.lease_secs), 3 * row.delay_ns * max(_steps_out(row), 1))
        if row.alive and now_ns - row.heard_ns > patience:
            table = table.with_row(replace(row, alive=False))
    return table


def report(table: Table, status: Status, now_ns: int) -> tuple[Table, Answer]:
    """A worker has pulled the model of a round. Said again, it only shows that the worker is alive.

    Raises:
        StaleError: The round or the generation is over.
        UserError: The table is full.
    """
    row = table.rows.get(status.rank)
    if row is None or status.generation == 0:
        row = _newcomer(table, row, status, now_ns)
    _check_life(row, status)
    if status.round < row.round:
        raise StaleError(
            f"worker {row.rank} is in round {row.round}; its REPORT of round {status.round} is late"
        )
    heard = replace(row, heard_ns=now_ns, alive=True)
    if not row.entered or status.round > row.round:
        heard = replace(
            _measured(heard, status),
            round=status.round,
            iteration=0,
            stamp_ns=now_ns,
            entered=True,
            answered=None,
        )
    over = 0 < table.num_rounds <= heard.round
    return table.with_row(heard), Answer(Action.STOP if over else Action.TRAIN, 0, heard.generation)


def query(table: Table, status: Status, rules: Rules, now_ns: int) -> tuple[Table, Answer]:
    """A worker asks what to do after `iteration` steps of its round.

    Raises:
        StaleError: The round, iteration or generation is over, or the round was not entered.
    """
    row = table.rows.get(status.rank)
    if row is None or not row.entered:
        raise StaleError(f"worker {status.rank} has not reported yet: REPORT comes before QUERY")
    _check_life(row, status)
    at, asked = (row.round, row.iteration), (status.round, status.iteration)
    if asked < at or status.round > row.round:
        raise StaleError(f"worker {row.rank} is at round and iteration {at}; its QUERY is of {asked}")
    row = replace(row, heard_ns=now_ns, alive=True)
    if row.answered is not None and (asked == at or row.synced):
        return table.with_row(row), row.answered
    row = replace(_measured(row, status), iteration=status.iteration, stamp_ns=now_ns)
    if row.iteration == 0:  # asking is no step: the stamp stays that of entering the round
        row = replace(row, stamp_ns=table.rows[row.rank].stamp_ns)
    answer = _decided(table.with_row(row), row, rules, now_ns)
    return table.with_row(replace(row, answered=answer)), answer


def _decided(table: Table, row: Row, rules: Rules, now_ns: int) -> Answer:
    """Algorithm 1, over those that are alive and count in this round."""

    def train(steps: int) -> Answer:
        most = min(steps, rules.max_steps - row.iteration) if rules.leased else 1
        return Answer(Action.TRAIN, max(most, 1), row.generation)

    sync = Answer(Action.SYNC, 0, row.generation)
    if 0 < table.num_rounds <= row.round:
        return replace(sync, action=Action.STOP)
    if row.iteration >= rules.max_steps:
        return sync
    waited_for = [r for r in table.rows.values() if r.alive and r.counts_from <= row.round >= r.round]
    straggler = slowest(waited_for, rules.rule)
    if straggler is None:  # a newcomer whom nobody waits for, and who has nobody to wait for
        return sync if row.iteration else train(1)
    steps = more_steps(row, straggler, now_ns, to_ns(rules.margin_secs), rules.rule)
    return train(steps) if steps else sync


def _newcomer(table: Table, old: Row | None, status: Status, now_ns: int) -> Row:
    """A new life of a worker: one that RESET foretold counts at once, others from the next round on."""
    if old is None and len(table.rows) >= MAX_WORKERS:
        raise UserError(f"the table is full: {MAX_WORKERS} workers")
    if old is not None and old.generation == 0:
        return replace(old, generation=1, counts_from=status.round)
    generation = 1 if old is None else old.generation + 1
    running = any(r.alive and r.entered and r.rank != status.rank for r in table.rows.values())
    counts_from = max(status.round, table.round + 1) if running else status.round
    return Row(status.rank, now_ns, generation, counts_from=counts_from)


def _check_life(row: Row, status: Status) -> None:
    if status.generation not in (0, row.generation):
        raise StaleError(
            f"worker {row.rank} has come again as generation {row.generation}; generation "
            f"{status.generation} is over"
        )


def _measured(row: Row, status: Status) -> Row:
    """With the times of the message, where it has any."""
    return replace(
        row,
        compute_ns=to_ns(status.computation_time) or row.compute_ns,
        send_ns=to_ns(status.transmission_time) or row.send_ns,
    )


def _steps_out(row: Row) -> int:
    return row.answered.steps if row.answered is not None else 1

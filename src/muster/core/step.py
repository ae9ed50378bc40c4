"""`step`: the whole server as one pure function.

    step(algorithm, seed, state, events, present) -> (state, commands)

No clock, no network, no file, no global randomness, and its inputs are never changed: a run can be
saved, resumed and replayed to the bit. The parts say what they want; what keeps any of them from
hanging is here: waiting for clients, backing off after a failed round, giving up with a reason.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .algorithm import Algorithm, Plan, Select, View
from .booking import MAX_FAILED, book, most_lost
from .errors import UserError
from .population import Candidates, Free, FreeInTurn, Turns, repeats, within
from .randomness import Rekeyed, rng
from .rests import next_end, rested, resting, tasks_ended
from .state import ServerState
from .tables import (
    SECOND,
    TASK,
    Accept,
    Advance,
    Appetite,
    Command,
    Continue,
    Discard,
    Evaluate,
    Events,
    Finish,
    Ids,
    Kind,
    Lease,
    Measure,
    Purpose,
    Reason,
    Stop,
    Table,
    Train,
    WakeAt,
    frozen,
    joined,
    rows,
    taken,
    to_secs,
)

MAX_BACKOFF_NS = 3600 * SECOND
NOBODY_NS = SECOND
"""How long a round lasts for which nobody was drawn, where that is an answer."""


class TooFarError(Exception):
    """Of the rows of `Appetite.together` no more than the first `num_rows` can be told at once."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(f"the row after the first {num_rows} must be told by itself")
        self.num_rows = num_rows


def appetite(algorithm: Algorithm, state: ServerState) -> Appetite:
    """How far the shell may deliver next: as the pace says, but not beyond a loss that ends the run.

    While clients are being asked, not beyond the last answer either.
    """
    tasks, asked = _apart(algorithm.select, state.tasks)
    wanted = algorithm.pace.appetite(state.pace, tasks)
    one_by_one = state.hold_ns is not None or state.limits.rest_ns or not algorithm.select.draws_in_turn
    together = 1 if one_by_one else wanted.together
    wanted = replace(wanted, num_losses=most_lost(state) - state.num_lost, together=together)
    if not (num_asked := np.count_nonzero(~asked["arrived"])) or wanted.whole_instant:
        return wanted
    # whoever it is that reports last, or is lost last, ends a delivery: the draw is at that instant
    return replace(wanted, num_arrivals=min(wanted.num_arrivals, int(num_asked)), stop_at_loss=True)


def step(
    algorithm: Algorithm, seed: int, state: ServerState, events: Events, present: Candidates
) -> tuple[ServerState, list[Command]]:
    """What the server does about `events`.

    Args:
        algorithm: The five parts.
        seed: Keys the selection's draws, together with their number.
        state: From `initial_state` or the last call.
        events: Rows in key order, no more of them than `appetite` allows; `Started`,
            `Advanced`, `Measured` and `Woke` come alone.
        present: The clients that are present at the last row's instant.

    Returns:
        The new state and the commands, to be carried out in order. After `Advance` the next event
        is `Advanced`, after `Measure` it is `Measured`, at the same instant; never both in one call.

    Raises:
        TooFarError: More rows were told together than can be; nothing has changed.

    """
    assert not state.stopped, "the run has been stopped"
    kind = Kind(int(events.table["kind"][0]))
    now = int(events.table["now"][-1])
    assert now >= state.now_ns, "time runs forward"
    if kind == Kind.WOKE and int(events.table["ticket"][0]) != state.timer:
        return state.but(now_ns=now), []
    waited = len(_apart(algorithm.select, state.tasks)[1]) > 0
    before = state.tasks
    state, progress, num_lost, given_up = book(state, events.table)
    if state.limits.rest_ns:
        state = _rest(state, *tasks_ended(before, events.table))
    if given_up:
        return end(state, "stalled", given_up)
    tasks, asked = _apart(algorithm.select, state.tasks)
    answered = kind == Kind.MEASURED or (waited and not len(asked))
    if answered:  # by nobody, where all were lost
        state = state.but(select=algorithm.select.told(state.select, now, events.measured))
    if kind == Kind.ADVANCED:
        state = state.but(select=algorithm.select.observe(state.select, now, events.reports))
        ended, commands = _after_version(state)
        if ended is not None:
            return ended, commands
    else:
        commands = []
    woke = kind == Kind.WOKE
    if woke and state.limits.virtual_ns is not None and now >= state.limits.virtual_ns:
        return end(state, "virtual_secs", f"the virtual clock reached {to_secs(now):g} s")

    due = woke and state.deadline_ns is not None and now >= state.deadline_ns
    drew_nobody = state.deadline_ns is not None and len(state.tasks) == 0 == num_lost
    if drew_nobody:
        plan = Plan(advance=due)
    else:
        view = View(now, state.version, tasks, num_lost, due, progress)
        pace, plan = algorithm.pace.plan(state.pace, view)
        state = state.but(pace=pace)
    if woke:
        state = _clear_timers(state)
    in_turn = plan.in_turn and len(events.table) > 1 and algorithm.select.draws_in_turn
    if in_turn:
        state, sent = _send_in_turn(algorithm.select, seed, state, plan.send, events.table, present)
        commands += sent
    state, decided = _decide(state, plan)
    commands += decided
    why = ""
    if state.num_failed >= MAX_FAILED:
        why = f"{MAX_FAILED} rounds in a row failed: too few clients reported"
    elif plan.send > 0 and not (plan.advance or in_turn) and state.hold_ns is None and not len(asked):
        state, sent, why = _send(algorithm, seed, state, plan, present, ask=not answered)
        commands += sent
    if why:
        stopped, last = end(state, "stalled", why)
        return stopped, commands + last
    state, commands = _set_timer(state, commands)
    if len(asked) and asked["arrived"].all() and not plan.advance:
        return _measure(state, asked, commands)
    return state, commands


def _measure(state: ServerState, asked: Table, commands: list[Command]) -> tuple[ServerState, list[Command]]:
    """Has it said what they found who were asked, all of whom have reported: TASK rows, of one version."""
    state = state.but(tasks=frozen(taken(state.tasks, state.tasks["work"] != Purpose.MEASURE)))
    tickets, took = asked["ticket"].copy(), (asked["arrived_at"] - asked["sent_at"]) / SECOND
    return state, [*commands, Measure(int(asked["version"][0]), frozen(tickets), frozen(took))]


def _apart(select: Select, tasks: Table) -> tuple[Table, Table]:
    """The tasks that train, and those of clients that the select has asked."""
    if not select.asks:
        return tasks, tasks[:0]
    asked = tasks["work"] == Purpose.MEASURE
    return (frozen(taken(tasks, ~asked)), taken(tasks, asked)) if asked.any() else (tasks, tasks[:0])


def _after_version(state: ServerState) -> tuple[ServerState | None, list[Command]]:
    """Evaluates when it is time, and ends the run when it has made its versions."""
    limits = state.limits
    last = limits.rounds is not None and state.version >= limits.rounds
    if last:
        return end(state, "rounds", f"{state.version} rounds are done")
    if state.version % limits.evaluate_every == 0:
        return None, [Evaluate(state.version)]
    return None, []


def _decide(state: ServerState, plan: Plan) -> tuple[ServerState, list[Command]]:
    """Carries out what the pace decided on tasks; a failed round doubles the wait for the next."""
    commands: list[Command] = []
    if len(plan.accept):
        at = state.tasks["ticket"].searchsorted(plan.accept)
        tasks = taken(state.tasks, at)
        staleness, took = state.version - tasks["version"], tasks["arrived_at"] - tasks["sent_at"]
        commands.append(Accept(frozen(plan.accept), frozen(staleness), frozen(took / SECOND)))
    if len(plan.discard):
        commands.append(Discard(frozen(plan.discard), plan.reason))
        if state.limits.rest_ns:
            late = taken(state.tasks, state.tasks["ticket"].searchsorted(plan.discard))
            state = _rest(state, late["client"][~late["arrived"]], state.now_ns)
    if len(plan.go_on) or len(plan.finish):
        state, told = _answer(state, plan)
        commands += told
    if len(plan.accept) or len(plan.discard):
        kept = np.ones(len(state.tasks), bool)
        for tickets in (plan.accept, plan.discard):
            if len(tickets):
                kept[state.tasks["ticket"].searchsorted(tickets)] = False
        state = state.but(tasks=frozen(taken(state.tasks, kept)), num_stalled=0)
    if plan.advance:
        state = state.but(version=state.version + 1, num_failed=0, deadline_ns=None)
        commands.append(Advance(state.version))
    if plan.failed:
        wait = min(SECOND << state.num_failed, MAX_BACKOFF_NS)
        state = state.but(num_failed=state.num_failed + 1, hold_ns=state.now_ns + wait, deadline_ns=None)
    return state, commands


def _answer(state: ServerState, plan: Plan) -> tuple[ServerState, list[Command]]:
    """Tells those who ask to make more steps, or to send what they have."""
    tasks, commands = joined(state.tasks), list[Command]()
    for tickets, lease in ((plan.go_on, Lease.TRAINING), (plan.finish, Lease.SENDING)):
        at = tasks["ticket"].searchsorted(tickets)
        tasks["lease"][at], tasks["since"][at] = lease, state.now_ns
    if len(plan.go_on):
        tasks["steps"][tasks["ticket"].searchsorted(plan.go_on)] += plan.go_on_steps.astype(np.int32)
        commands.append(Continue(frozen(plan.go_on), frozen(plan.go_on_steps)))
    if len(plan.finish):
        commands.append(Finish(frozen(plan.finish)))
    return state.but(tasks=frozen(tasks), num_stalled=0), commands


def _send(
    algorithm: Algorithm, seed: int, state: ServerState, plan: Plan, present: Candidates, *, ask: bool
) -> tuple[ServerState, list[Command], str]:
    """Draws clients and sends them work, or says when to try again, or why it never will.

    `ask`: the select may have clients asked first; then nobody is drawn yet.
    """
    busy = _busy(state.tasks)
    withheld = _withheld(state, busy)
    free = Free(present, withheld)
    drawn = free.among(plan.named)[: plan.send] if len(plan.named) else plan.named
    if (wanted := plan.send - len(drawn)) > 0:
        if len(plan.named) or len(plan.spared):
            free = Free(present, np.unique(np.concatenate([withheld, plan.named, plan.spared])))
        select, can_start = algorithm.select, True
        if select.asks and ask:
            can_start = Free(present, withheld).when(plan.min_start) == state.now_ns
            question = rng(seed, "ask", state.num_draws)
            asked = select.ask(state.select, wanted, free, question) if can_start else busy[:0]
            if len(asked := _held(select, "ask", asked, free.num_clients, free)):
                state, tasks = _sent(state, asked, len(busy), work=Purpose.MEASURE)
                return state, [Train(tasks)], ""
        more = busy[:0]
        if can_start:
            draw = rng(seed, "select", state.num_draws)
            state = state.but(num_draws=state.num_draws + 1)
            more = _held(select, "draw", select.draw(state.select, wanted, free, draw), wanted, free)
        drawn = np.concatenate([drawn, more]) if len(drawn) else more
    nobody = len(drawn) == 0 == len(state.tasks) and algorithm.select.may_draw_nobody
    if nobody and free.when(plan.min_start) == state.now_ns:
        return state.but(deadline_ns=state.now_ns + NOBODY_NS), [], ""
    short = len(drawn) < plan.send
    clients = drawn if len(drawn) >= plan.min_start else drawn[:0]
    commands: list[Command] = []
    if len(clients):
        lease = Lease.TRAINING if plan.leased else Lease.NONE
        state, tasks = _sent(state, clients, len(busy), steps=plan.steps, lease=lease)
        if plan.wake_after_ns is not None:
            state = state.but(deadline_ns=state.now_ns + plan.wake_after_ns)
        commands.append(Train(tasks))
    if len(clients) == 0 or (short and plan.top_up):
        when = _more_at(state, plan, present)
        if when is not None and when > state.now_ns:
            state = state.but(retry_ns=when)
        elif len(_busy(state.tasks)) == 0:
            found = "never has as many" if when is None else f"let {len(drawn)} be chosen"
            why = f"no work can go out: it needs {plan.min_start} clients, but the population {found}"
            return state, commands, why
    return state, commands, ""


def _send_in_turn(
    select: Select, seed: int, state: ServerState, count: int, table: Table, present: Candidates
) -> tuple[ServerState, list[Command]]:
    """Sends one task at the instant of each of the first `count` rows, whose clients are free again.

    Raises:
        TooFarError: Nobody is free at one of them.
    """
    if count == 0:
        return state, []
    turns, busy = table[:count], _busy(state.tasks)
    before = np.concatenate([busy, table["client"]])
    at_ns, numbers = turns["now"].copy(), Rekeyed(seed, "select")
    free = FreeInTurn(present, Turns(at_ns, turns["client"].copy(), before))
    clients = select.draw_in_turn(state.select, free, lambda turn: numbers(state.num_draws + turn))
    clients = _held(select, "draw_in_turn", clients, count, Free(present, busy))
    if len(clients) < count:
        raise TooFarError(max(len(clients), 1))
    state, tasks = _sent(state, clients, len(busy), sent_at=at_ns, since=at_ns)
    return state.but(num_draws=state.num_draws + count), [Train(tasks)]


def _sent(state: ServerState, clients: Ids, num_busy: int, **columns: object) -> tuple[ServerState, Table]:
    """Enters new tasks of free clients, while so many others are at work; returns their TASK rows."""
    columns = {"sent_at": state.now_ns, "since": state.now_ns, **columns}
    tasks = rows(
        TASK,
        len(clients),
        ticket=np.arange(state.next_ticket, state.next_ticket + len(clients)),
        client=clients,
        version=state.version,
        attempt=state.tally.of(clients),
        **columns,
    )
    state = state.but(
        tasks=frozen(joined(state.tasks, tasks)),
        tally=state.tally.add(clients),
        next_ticket=state.next_ticket + len(clients),
        peak_out=max(state.peak_out, num_busy + len(clients)),
    )
    return state, frozen(tasks)


def _held(select: Select, method: str, drawn: object, k: int, free: Free) -> Ids:
    """What a select's `draw` or `ask` returned, if it keeps the contract; a user's own may not.

    Raises:
        UserError: Says what was drawn and what is allowed.
    """
    ids = np.asarray(drawn)
    name = f"{type(select).__name__}.{method} returned"
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise UserError(f"{name} {drawn!r}, but must return the ids of clients as integers")
    if len(ids) > k:
        raise UserError(f"{name} {len(ids)} clients, but at most {k} are wanted")
    if len(ids):
        low, high = (ids[0], ids[0]) if len(ids) == 1 else (ids.min(), ids.max())
        if not 0 <= low <= high < free.num_clients:
            raise UserError(f"{name} client {low} to {high}, but ids go from 0 to {free.num_clients - 1}")
    if len(ids) > 1 and repeats(ids):
        raise UserError(f"{name} a client twice, but each may get one task")
    if within(ids, free.busy).any():
        raise UserError(f"{name} a client that is at work; draw from `free`, by free.sample or free.among")
    return np.asarray(ids, np.int64)


def _busy(tasks: Table) -> Ids:
    """The clients that are at work."""
    return np.asarray(tasks["client"][~tasks["arrived"]], np.int64)


def _withheld(state: ServerState, busy: Ids) -> Ids:
    """The clients that get no work now: those at work, and those that rest."""
    return np.union1d(busy, resting(state.rests, state.now_ns)) if len(state.rests) else busy


def _rest(state: ServerState, clients: Ids, ended_ns: Ids | int) -> ServerState:
    """Has clients rest, whose tasks have ended."""
    return state.but(rests=rested(state.rests, clients, ended_ns, state.limits.rest_ns, state.now_ns))


def _more_at(state: ServerState, plan: Plan, present: Candidates) -> int | None:
    """When (ns) to try again: when so many are free, or the next one has rested; None: never."""
    when = Free(present, _withheld(state, _busy(state.tasks))).when(plan.min_start)
    if when == state.now_ns or (end_of_rest := next_end(state.rests, state.now_ns)) is None:
        return when
    return end_of_rest if when is None else min(when, end_of_rest)


def _clear_timers(state: ServerState) -> ServerState:
    """Drops what has rung, now that the newest timer has."""

    def ahead(time: int | None) -> int | None:
        return time if time is not None and time > state.now_ns else None

    return state.but(
        wake_ns=None,
        deadline_ns=ahead(state.deadline_ns),
        retry_ns=ahead(state.retry_ns),
        hold_ns=ahead(state.hold_ns),
    )


def _set_timer(state: ServerState, commands: list[Command]) -> tuple[ServerState, list[Command]]:
    """Asks to be woken at the earliest of the times that matter, if that has changed."""
    times = [state.deadline_ns, state.retry_ns, state.hold_ns, state.limits.virtual_ns]
    wake = min((t for t in times if t is not None), default=None)
    if wake == state.wake_ns:
        return state, commands
    state = state.but(wake_ns=wake, timer=state.timer + 1)
    return state, commands if wake is None else [*commands, WakeAt(wake, state.timer)]


def end(state: ServerState, status: str, why: str) -> tuple[ServerState, list[Command]]:
    """Ends the run; what is out is discarded, so that its cost is counted.

    Shells call it for ends that only they can see: wall time, a target that is met.
    """
    done = (state.tasks["work"] == Purpose.MEASURE) & state.tasks["arrived"]  # it has been charged
    out = frozen(np.array(state.tasks["ticket"][~done], np.int64))
    commands: list[Command] = [Discard(out, Reason.STOPPED)] if len(out) else []
    commands += [Evaluate(state.version), Stop(status, why)]
    return state.but(stopped=True, tasks=frozen(state.tasks[:0].copy())), commands

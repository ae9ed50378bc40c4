"""Time: how long each task takes on its device, and whether it comes back.

    secs = down + compute + up
    down, up = model bits / link bits a second
    compute  = what the job's clock makes of the task's work and its device

Everything here is a function of the task alone, so that nothing about time has to be saved: after a
resume the same tasks are timed again, to the same nanosecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from muster.core.population import Candidates, Everyone, Foreseen, Online, Population
from muster.core.randomness import uniform, uniforms
from muster.core.tables import (
    ANSWER_BYTES,
    EVENT,
    SECOND,
    TASK,
    Ids,
    Kind,
    Lease,
    Purpose,
    Reason,
    Table,
    joined,
    rows,
    taken,
)
from muster.core.work import Work

from .availability import FAR, share_online
from .clocks import REFERENCE_MACS, Clock

ASKED = 2_000
"""Clients that are asked how many are online; each version costs that."""
TIMING = np.dtype([("down", "i8"), ("compute", "i8"), ("up", "i8")])
"""Nanoseconds of a task's three legs."""


@dataclass(frozen=True)
class World:
    """The devices of a population at work on one model.

    Args:
        population: A row a client.
        work: What one task trains.
        down_bytes: Bytes of one download of a task.
        up_bytes: Bytes of one update's upload.
        dropout: Chance that a task is lost.
        seed: Keys what is drawn: who is lost, and when; the clock's jitter.
        clock: How long training takes.
        macs: Multiply-adds of one example's forward pass of the model; read by a clock by flops.
        passes: How often a task trains on what its work says: a rule may go through it again.
        looks: Forward passes over all examples of a client before it trains.

    """

    population: Population
    work: Work
    down_bytes: int
    up_bytes: int
    dropout: float
    seed: int
    clock: Clock = field(default_factory=Clock)
    macs: float = REFERENCE_MACS
    passes: int = 1
    looks: int = 0

    def present(self, now_ns: int) -> Candidates:
        """Who is there at `now_ns`: everyone, or who is online."""
        who = self.population
        if who.availability is None:
            return Everyone(who.num_clients, now_ns)
        return Online(who.num_clients, now_ns, who.availability)

    def num_online(self, now_ns: int) -> int:
        """Clients online at an instant, the busy included; of more than ASKED, an estimate from so many."""
        return round(share_online(self.population, now_ns, ASKED) * self.population.num_clients)

    def timing(self, tasks: Table) -> Table:
        """TIMING rows for TASK rows: what each task would take if it were not lost."""
        who, clock = self.population, self.clock
        client = tasks["client"] if len(tasks) != 1 else tasks["client"][0]  # numbers are faster than columns
        examples = np.asarray(who.num_examples[client], np.int64)
        speed = who.ms_per_example[client].astype(np.float64)
        kbit = clock.bits_per_kbit
        up_bytes: float | npt.NDArray[np.float64] = self.up_bytes
        if (asked := tasks["work"] == Purpose.MEASURE).any():
            up_bytes = np.where(asked, float(ANSWER_BYTES), up_bytes)
        todo = self.seed, self.work, examples, speed, self.macs, self.passes, self.looks
        compute = np.rint(clock.secs(tasks, *todo) * SECOND)
        if who.links is None:
            down = np.rint(8 * self.down_bytes / (kbit * who.down_kbps[client].astype(np.float64)) * SECOND)
            up = np.rint(8 * up_bytes / (kbit * who.up_kbps[client].astype(np.float64)) * SECOND)
        else:
            ids, bits = tasks["client"], 8 * 1000.0 / kbit
            down = who.links.down_ns(ids, tasks["sent_at"], bits * self.down_bytes)
            trained = tasks["sent_at"] + down + compute.astype(np.int64)
            up = who.links.up_ns(ids, trained, bits * up_bytes)
        if (leased := tasks["lease"] > 0).any():
            trained = self.work.num_trained(examples, tasks["steps"])
            exact = rounded(compute / np.maximum(trained, 1)) * trained
            compute = np.where(leased & (trained > 0), exact, compute)
            down, up = np.where(leased, rounded(down), down), np.where(leased, rounded(up), up)
        up = up + (down + compute + up == 0)  # at least one nanosecond
        return rows(TIMING, len(tasks), down=down, compute=compute, up=up)

    def expected_secs(self) -> npt.NDArray[np.float64]:
        """Seconds that each client's first task takes, f64[C], unless it is lost."""
        clients = np.arange(self.population.num_clients)
        legs = self.timing(rows(TASK, len(clients), client=clients))
        return np.asarray(sum(legs[leg] / SECOND for leg in ("down", "compute", "up")), np.float64)

    def foreseen(self) -> Foreseen:
        """The legs of each client's first leased task, and one of its steps."""
        clients = np.arange(self.population.num_clients)
        whole = self.timing(rows(TASK, len(clients), client=clients, lease=Lease.TRAINING))
        one = self.timing(rows(TASK, len(clients), client=clients, lease=Lease.TRAINING, steps=1))
        return Foreseen(
            *(leg / SECOND for leg in (whole["down"], one["compute"], whole["compute"], whole["up"]))
        )

    def losses(self, tasks: Table, timing: Table) -> tuple[Ids, Table]:
        """i64[K] ns after which each task is lost unless it has reported before, FAR: never; and Reason."""
        ids, attempts = tasks["client"], tasks["attempt"].astype(np.int64)
        after, why = np.full(len(tasks), FAR), np.zeros(len(tasks), np.int8)
        lost = uniforms(self.seed, "lost", ids, attempts) < self.dropout
        if lost.any():
            if tasks[
                "lease"
            ].any():  # how many steps these will make is not known: a step's time is drawn from
                timing = self.timing(_first_step(tasks))
            total = (timing["down"] + timing["compute"] + timing["up"])[lost]
            share = uniforms(self.seed, "lost at", ids[lost], attempts[lost])
            after[lost] = np.maximum((total * share).astype(np.int64), 1)
            why[lost] = Reason.DROPPED
        if self.population.availability is not None:
            # Whoever goes offline is lost at the first instant of being gone.
            until = self.population.availability.online_until(ids, tasks["sent_at"])
            stays = np.maximum(until - tasks["sent_at"] + 1, 1)
            gone = (stays <= after) & (until < FAR)
            after, why[gone] = np.where(gone, stays, after), Reason.OFFLINE
        return after, why

    def reports(self, tasks: Table, timing: Table) -> Table:
        """EVENT rows for TASK rows, in their order: what each says next, unless it is lost before.

        `Arrived`, when all three legs are over; of a leased task first `Progressed`, when its steps are made.
        """
        ids = tasks["client"]
        table = rows(
            EVENT,
            len(tasks),
            now=tasks["sent_at"] + timing["down"] + timing["compute"] + timing["up"],
            kind=Kind.ARRIVED,
            client=ids,
            ticket=tasks["ticket"],
            steps=self.work.num_steps(
                np.asarray(self.population.num_examples[ids], np.int64), tasks["steps"]
            ),
            secs=timing["compute"] / SECOND,
        )
        if (leased := tasks["lease"] > 0).any():
            table[leased] = self._next_word(table[leased], tasks[leased], timing[leased])
        return table

    def _next_word(self, table: Table, tasks: Table, timing: Table) -> Table:
        """EVENT rows of leased tasks: half a query's time there, half of it back."""
        training = tasks["lease"] == Lease.TRAINING
        query = round(self.clock.query_secs * SECOND)
        told_at = tasks["since"] + query // 2
        done = joined(tasks)  # a copy
        done["steps"] = tasks["done"]
        begun = tasks["done"] > 0
        before = np.where(begun, self.timing(done)["compute"], 0)
        starts = np.where(begun, told_at, tasks["sent_at"] + timing["down"])
        took = np.maximum(timing["compute"] - before, 1)  # time passes, even for who has no examples
        table["now"] = np.where(training, starts + took + query - query // 2, told_at + timing["up"])
        table["kind"] = np.where(training, Kind.PROGRESSED, Kind.ARRIVED)
        table["steps"] = np.where(training, tasks["steps"], tasks["done"])
        each = took / np.maximum(tasks["steps"] - tasks["done"], 1)
        table["secs"] = np.where(training, each, timing["compute"]) / SECOND
        table["send_secs"] = timing["up"] / SECOND
        return table

    def outcomes(self, tasks: Table) -> Table:
        """EVENT rows in key order: each task's `Arrived`, or `Lost` somewhere on its way."""
        if len(tasks) == 1 and not tasks["lease"][0]:
            return self._outcome(tasks)
        timing = self.timing(tasks)
        table = self.reports(tasks, timing)
        after, why = self.losses(tasks, timing)
        lost = after <= table["now"] - tasks["sent_at"]
        if lost.any():
            table["now"][lost] = (tasks["sent_at"] + after)[lost]
            table["kind"][lost], table["reason"][lost] = Kind.LOST, why[lost]
            table["steps"][lost], table["secs"][lost] = 0, 0.0
        return taken(table, np.lexsort((table["client"], table["kind"], table["now"])))

    def _outcome(self, tasks: Table) -> Table:
        """`outcomes` of one task, in Python's numbers: an asynchronous run asks for one at a time."""
        task, who = tasks[0], self.population
        client, sent_at, attempt = int(task["client"]), int(task["sent_at"]), int(task["attempt"])
        down, compute, up = self.timing(tasks).item()
        total = down + compute + up
        after, why = FAR, Reason.NONE
        if uniform(self.seed, "lost", client, attempt) < self.dropout:
            after = max(int(total * uniform(self.seed, "lost at", client, attempt)), 1)
            why = Reason.DROPPED
        if who.availability is not None:
            until = int(who.availability.online_until(tasks["client"], sent_at)[0])
            stays = max(until - sent_at + 1, 1)
            if stays <= after and until < FAR:
                after, why = stays, Reason.OFFLINE
        table = np.zeros(1, EVENT)
        if after <= total:
            kind, now, steps, secs = Kind.LOST, sent_at + after, 0, 0.0
        else:
            kind, now, why, secs = Kind.ARRIVED, sent_at + total, Reason.NONE, compute / SECOND
            steps = int(
                self.work.num_steps(np.asarray(who.num_examples[client], np.int64), int(task["steps"]))
            )
        table[0] = (now, kind, client, task["ticket"], steps, secs, 0.0, 0.0, why)
        return table


def rounded(ns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Whole nanoseconds of at most six digits that are not 0, at least 1 where there is any time at all.

    Speeds have seven digits (f32). Of leased tasks an example's time is rounded so: who is eight times as
    slow then takes eight times as long to the nanosecond, and eight steps fit where they are to fit.
    """
    digits = np.floor(np.log10(np.maximum(ns, 1.0)))
    unit = 10.0 ** np.maximum(digits - 5, 0)
    return np.asarray(np.where(ns > 0, np.maximum(np.rint(ns / unit), 1) * unit, 0), np.float64)


def _first_step(tasks: Table) -> Table:
    """TASK rows in which leased tasks have one step."""
    first = joined(tasks)  # a copy
    first["steps"] = np.where(tasks["lease"] > 0, 1, tasks["steps"])
    return first

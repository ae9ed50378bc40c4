"""The state table of a job that is served: what its pace knows, in the words of ESync's messages.

There is one truth: the run's tasks and what the pace has learnt. A QUERY does what gRPC's Progress does, so
workers of both kinds may take part in one round, every question is in the journal, and a server that was
killed goes on in the middle of a round. The job is the parameter server: it begins rounds and folds updates,
so RESET only agrees with it, and a worker's REPORT is of the model of its task. A rank is a client's row, a
round the version of the model that it was sent. Which process of a client speaks is settled where it joins;
the generation is always 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from muster.algorithms.leased import Beliefs
from muster.core.errors import AccessError, UserError
from muster.core.tables import SECOND, Lease, Table

from .esync_http import fields_of
from .hub import Hub
from .leases import FINISH, OVER, more_steps
from .roster import Member
from .state_messages import Action, Kind, Message, Status
from .state_table import StaleError


class JobStates:
    """Answers for a run whose pace hands out leases.

    Args:
        hub: The run.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.num_handled: dict[str, int] = {"RESET": 0, "REPORT": 0, "QUERY": 0, "refused": 0}

    @property
    def num_queued(self) -> int:
        """What waits for the run, questions and all else."""
        return self._hub.num_queued

    async def ask(self, message: Message, caller: str = "") -> Message:
        """The RESPONSE to a message of `caller`, who speaks for itself only; an empty one for everybody.

        Raises:
            AccessError: The caller is another client.
            StaleError: The message belongs to a round or a task that is over, or the client is not there.
            UserError: It makes no sense here.
        """
        try:
            action, steps = await self._told(message, caller)
        except (UserError, AccessError):
            self.num_handled["refused"] += 1
            raise
        self.num_handled[message.msg_type] += 1
        return message.answer(action, steps, generation=1)

    async def _told(self, message: Message, caller: str) -> tuple[Action, int]:
        if message.msg_type is Kind.RESET:
            self._agree(message)
            return Action.TRAIN, 0
        if message.msg_type is Kind.RESPONSE:
            raise UserError("a RESPONSE is what the state server sends; it takes RESET, REPORT and QUERY")
        member = self._member(message.status.rank, caller)
        if self._hub.conductor.over:
            return Action.STOP, 0
        self._hub.heard[member.client] = time.monotonic()
        task = self._task(member, message.status)
        if message.msg_type is Kind.REPORT:
            return Action.TRAIN, 0
        return await self._query(member, int(task["ticket"][0]), message.status)

    def _agree(self, message: Message) -> None:
        """A parameter server of the original kind says how many workers it has."""
        cohort = self._hub.conductor.algorithm.pace.max_out
        if message.num_workers != cohort:
            raise UserError(
                f"RESET is for {message.num_workers} workers, but this job's rounds have "
                f"algorithm.pace.cohort = {cohort}: it begins them itself"
            )

    def _member(self, rank: int, caller: str) -> Member:
        member = self._hub.conductor.roster.members.get(rank)
        if member is None or not member.present:
            raise StaleError(f"worker {rank} has not joined this run, or was lost: join, and take a task")
        if caller not in ("", member.name):
            raise AccessError(
                "PERMISSION_DENIED", f"{caller} speaks for worker {rank}, which is another client"
            )
        return member

    def _task(self, member: Member, status: Status) -> Table:
        task = self._hub.conductor.task_of(member.client)
        if task is None:
            raise StaleError(f"no task is out for {member.name}: its next round has not begun")
        if status.round != task["version"][0]:
            raise StaleError(
                f"{member.name} is in round {int(task['version'][0])}; its message is of {status.round}"
            )
        return task

    async def _query(self, member: Member, ticket: int, status: Status) -> tuple[Action, int]:
        said = None
        while said is None:
            said = await more_steps(
                self._hub,
                member.client,
                ticket,
                status.iteration,
                status.computation_time,
                status.transmission_time,
            )
        if said == OVER:
            if self._hub.conductor.over:
                return Action.STOP, 0
            raise StaleError(f"the task of {member.name} is over")
        return (Action.SYNC, 0) if said == FINISH else (Action.TRAIN, said)

    def round_of(self, rank: int) -> int:
        """The round that a worker is in, or that is being made."""
        task = self._hub.conductor.task_of(rank)
        return self._hub.conductor.state.version if task is None else int(task["version"][0])

    def described(self) -> dict[str, Any]:
        """The table as JSON data, as that of a state server of its own."""
        conductor = self._hub.conductor
        state = conductor.state
        known = Beliefs.of(state.pace).with_clients(conductor.roster.present())
        rows = [self._row(member, known) for _, member in sorted(conductor.roster.members.items())]
        return {"round": state.version, "num_rounds": state.limits.rounds or 0, "workers": rows}

    def _row(self, member: Member, known: Beliefs) -> dict[str, Any]:
        client, conductor = member.client, self._hub.conductor
        found = known.clients == client
        compute, send = (float(column[found].sum()) / SECOND for column in (known.compute, known.send))
        now, heard = time.monotonic(), self._hub.heard.get(client)
        body: dict[str, Any] = {
            "rank": client,
            "generation": 1,
            "round": self.round_of(client),
            "iteration": 0,
            "counts_from": 0,
            "entered": False,
            "alive": member.present,
            "compute_secs": compute,
            "send_secs": send,
            "heard_secs_ago": None if heard is None else max(now - heard, 0.0),
            "stamp_secs_ago": None,
            "answered": None,
        }
        if (task := conductor.task_of(client)) is None:
            return body
        done, steps = int(task["done"][0]), int(task["steps"][0])
        goes_on = task["lease"][0] == Lease.TRAINING
        action = Action.TRAIN if goes_on else Action.SYNC
        answer = {"action": action, "steps": steps - done if goes_on else 0}
        body |= {"iteration": done, "entered": True, "answered": answer}
        return body | {"stamp_secs_ago": (self._hub.now_ns() - int(task["since"][0])) / SECOND}


class FirstJobStates:
    """The same in the words of the first state server (2019): its rounds begin with 1.

    Args:
        states: The job's table.
    """

    def __init__(self, states: JobStates) -> None:
        self._states = states

    async def init(self, form: bytes, caller: str) -> None:
        """`/init/`: agrees if the job has as many workers; its margin is the job's own."""
        asked = fields_of(form, num_workers=(int, 6), epsilon=(float, 0.5))
        message = Message(Kind.RESET, Status(0), num_workers=asked["num_workers"])
        await self._states.ask(message, caller)

    async def apply(self, form: bytes, caller: str) -> Mapping[str, int]:
        """`/apply/`: a QUERY of the round that the worker is in."""
        a = fields_of(form, r=(int, None), k=(int, None), c=(float, None), te=(float, None))
        status = Status(a["r"], a["k"], self._states.round_of(a["r"]), a["c"])
        answer = await self._states.ask(Message(Kind.QUERY, status), caller)
        return {"ready": int(answer.action is not Action.TRAIN)}

    async def reset(self, form: bytes, caller: str) -> None:
        """`/reset/`: a REPORT."""
        a = fields_of(form, r=(int, None), t=(int, None), te=(float, None))
        await self._states.ask(Message(Kind.REPORT, Status(a["r"], round=max(a["t"] - 1, 0))), caller)

    def shown(self) -> Mapping[str, Any]:
        """`/`: the margin is the job's own, and not shown."""
        body = self._states.described()
        records = [
            [
                row["rank"],
                row["iteration"],
                row["compute_secs"],
                0,
                (row["answered"] or {}).get("action") == Action.SYNC,
                row["round"] + 1,
            ]
            for row in body["workers"]
        ]
        return {"num_workers": len(records), "t": body["round"] + 1, "epsilon": 0, "records": records}

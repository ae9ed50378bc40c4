"""The protocol's server side: who may call what, and the hub's answers as messages."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import grpc
import numpy as np
import numpy.typing as npt

from muster.core.errors import AccessError, UserError
from muster.core.tables import (
    ANSWER_BYTES,
    Kind,
    Purpose,
    Reason,
    Refusal,
    Table,
)

from .access import Gatekeeper
from .conductor import ANSWER
from .hub import Hub
from .leases import FINISH, OVER, more_steps
from .reports import REASONS, REPORTED, UNSAID, report_row, said_or
from .roster import Member
from .rpc import LEAST_PIECE, PIECE, agreed, pb
from .spool import DamagedError, Incoming
from .turns import Sending, Turns
from .wire import WireError, codecs

MAX_CONSUMED = 100_000
"""Nonces that are remembered: an older one is of a task that is long over, and counts for nothing."""
MAX_TEXT = 20_000
MAX_SECS = 1e6

Check = Callable[[int, Table], Refusal]
"""Whether a received update may be folded: its ticket and its REPORT row."""


class Service:
    """Answers calls.

    Args:
        hub: The run.
        gate: Who may call.
        check: The gate in front of every fold.
        recipe: What clients are to train, as JSON.
        spec: The model's layout, as JSON.
        num_examples: i32[C], what each client holds of the job's data set.

    """

    def __init__(
        self,
        hub: Hub,
        gate: Gatekeeper,
        check: Check,
        recipe: str,
        spec: str,
        num_examples: npt.NDArray[np.int32],
    ) -> None:
        self._hub, self.gate, self._check = hub, gate, check
        self._recipe, self._spec, self._num_examples = recipe, spec, num_examples
        self._consumed: OrderedDict[int, tuple[bytes, str]] = OrderedDict(
            (ticket, (bytes.fromhex(entry.more["nonce"]), entry.more["sha256"]))
            for ticket, entry in hub.conductor.arrived.items()
            if "nonce" in entry.more
        )
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        """By ticket: one stream of an upload at a time. Gone when nobody holds one or waits for it."""
        self._awaited: dict[int, asyncio.Timeout] = {}
        """By ticket, how long the part of an upload is waited for that has not come yet."""
        self._turns, self._sending = Turns(hub.deploy.call_secs / 2), Sending()
        self._told: set[int] = set()
        self._admitted = 0.0
        self._joining = asyncio.Lock()

    async def on_join(self, request: Any, context: Any) -> Any:
        """Admits a client, or tells it when to come back."""
        peer = await self._peer(context, "Join")
        try:
            protocol = agreed(request.protocol_min, request.protocol_max, request.software[:100])
            self._fit(request, peer)
        except UserError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if (wait := self._pace()) > 0:
            return pb.JoinReply(come_back_in_secs=wait)
        async with self._joining:
            member = await self._seat(request, context)
        deploy, roster = self._hub.deploy, self._hub.conductor.roster
        return pb.JoinReply(
            caller=pb.Caller(client=member.client, session=roster.session(member)),
            protocol=protocol,
            recipe=self._recipe,
            spec=self._spec,
            beat_every_secs=deploy.beat_secs,
            call_secs=deploy.call_secs,
            poll_secs=deploy.poll_secs,
            stall_secs=deploy.stall_secs,
            retry_secs=deploy.retry_secs,
            give_up_secs=deploy.give_up_secs,
            skew_secs=request.time_of_day - time.time(),
        )

    def _fit(self, request: Any, peer: Any) -> None:
        if self._hub.conductor.roster.find(request.name) is None and not 0 < len(request.name) <= 100:
            raise UserError("a client's name has 1 to 100 characters")
        if peer.role != "admin" and peer.name != request.name:
            raise UserError(f"the certificate or token is of {peer.name}, not of {request.name}")
        if len(request.instance) != 16:
            raise UserError("a client's instance has 16 bytes")
        rule = self._hub.spool.layout.rule
        if rule is not None and rule.part_name() in codecs() and rule.part_name() not in request.codecs:
            raise UserError(
                f"the updates of this run are compressed by {rule.part_name()}, which {request.name} "
                f"({request.software[:100]}) does not know: pip install --upgrade 'muster-fl[net]'"
            )
        most = int(self._num_examples.max())
        if not UNSAID <= request.num_examples <= most:
            raise UserError(
                f"{request.name} says that it has {request.num_examples:,} examples, but this run allows "
                f"{most:,} a client at most"
            )

    def _pace(self) -> float:
        """0 if a client may come in now, else in how many seconds it is to come back: no storms."""
        now, each = time.monotonic(), 1 / self._hub.deploy.joins_per_sec
        self._admitted = max(self._admitted, now - 1.0) + each  # a second's worth may come at once
        wait = self._admitted - now
        if wait <= 0:
            return 0.0
        self._admitted -= each
        waiting = sum(member.present for member in self._hub.conductor.roster.members.values())
        return 0.05 + np.random.Generator(np.random.SFC64()).random() * max(1.0, waiting * each)

    async def _seat(self, request: Any, context: Any) -> Member:
        roster, instance = self._hub.conductor.roster, request.instance.hex()
        member = roster.find(request.name)
        if member is not None and member.quarantined:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"{member.name} is in quarantine: {member.quarantined}"
            )
        try:
            client = roster.row_for(request.name) if member is None else member.client
        except UserError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        if self._hub.conductor.ended is None and (
            member is None or not member.present or member.instance != instance
        ):
            num = said_or(int(self._num_examples[client]), request.num_examples)
            more = {"name": request.name, "instance": instance, "num_examples": num}
            await self._hub.submit(Kind.JOINED, client=client, reason=Reason.REJOINED, more=more)
        self._hub.heard[client] = time.monotonic()
        members = roster.members
        wanted = self._hub.deploy.start_with or self._hub.conductor.algorithm.pace.max_out
        if not self._hub.conductor.begun and sum(m.present for m in members.values()) >= wanted:
            await self._hub.start()
        return members[client]

    async def _peer(self, context: Any, method: str) -> Any:
        try:
            return self.gate.admit(
                context.auth_context(),
                context.invocation_metadata() or (),
                context.peer(),
                method,
                ("client",),
            )
        except AccessError as error:
            await context.abort(grpc.StatusCode[error.code], str(error))

    async def _member(self, caller: Any, context: Any, method: str) -> Member:
        """The client that calls, if it has joined and its lease has not ended; the lease begins anew."""
        peer = await self._peer(context, method)
        member = await self._in_session(caller, context)
        if peer.role != "admin" and peer.name != member.name:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"this is the session of {member.name}")
        self._hub.heard[member.client] = time.monotonic()
        return member

    async def _in_session(self, caller: Any, context: Any) -> Member:
        """The client whose session it is, if its lease has not ended."""
        roster = self._hub.conductor.roster
        member = roster.members.get(caller.client)
        if member is None or not hmac.compare_digest(roster.session(member), caller.session):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this session is not known: join again")
        assert member is not None
        if not member.present and self._hub.conductor.ended is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the lease has ended: join again")
        return member

    async def on_await(self, request: Any, context: Any) -> Any:
        """A task, when there is one; the end of the run; or in at most `poll_secs`, to ask again."""
        member = await self._member(request.caller, context, "Await")
        news, pending = self._hub.news(member.client), set(request.pending)
        self._forget(member.client, pending)
        # Not all at once: a thousand that have joined together would ask again together for ever.
        share = np.random.Generator(np.random.SFC64()).uniform(0.5, 1.0)
        until = time.monotonic() + self._hub.deploy.poll_secs * share
        while True:
            news.clear()
            reply = await self._answer(member, pending)
            left = until - time.monotonic()
            if reply.WhichOneof("next") or reply.outcomes or left <= 0:
                if not reply.WhichOneof("next"):
                    reply.come_back_in_secs = 0.0
                return reply
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)
            member = await self._in_session(request.caller, context)  # it may have been lost meanwhile

    def _forget(self, client: int, pending: set[int]) -> None:
        """Drops outcomes that the client has heard of: it no longer asks for them."""
        outcomes = self._hub.conductor.outcomes.get(client, {})
        for ticket in set(outcomes) - pending:
            del outcomes[ticket]

    async def _answer(self, member: Member, pending: set[int]) -> Any:
        conductor, deploy = self._hub.conductor, self._hub.deploy
        row = conductor.task_of(member.client)
        # What had become of updates when the task was given comes with it, and no more.
        outcomes = conductor.outcomes.get(member.client, {}).copy()
        if row is not None and conductor.ended is None:
            outcomes = {t: o for t, o in outcomes.items() if o.since <= int(row["ticket"][0])}
        told = [pb.Outcome(ticket=t, what=o.what) for t, o in sorted(outcomes.items()) if t in pending]
        if member.quarantined:
            why = f"{member.name} is in quarantine: {member.quarantined}"
            return pb.AwaitReply(ended=pb.Ended(status="quarantined", why=why), outcomes=told)
        if conductor.ended is not None:
            self._told.add(member.client)
            ended = pb.Ended(status=conductor.ended.status, why=conductor.ended.why)
            return pb.AwaitReply(ended=ended, outcomes=told)
        if row is None:
            return pb.AwaitReply(outcomes=told)
        ticket, version = int(row["ticket"][0]), int(row["version"][0])
        model = await self._hub.with_space(self._hub.models.of, version)
        self._hub.give(row)
        layout = self._hub.spool.layout
        task = pb.Task(
            ticket=ticket,
            version=version,
            attempt=int(row["attempt"][0]),
            steps=int(row["steps"][0]),
            nonce=conductor.roster.nonce(member.client, ticket, version, model.sha256),
            model_sha256=model.sha256,
            model_bytes=model.num_bytes,
            zstd=deploy.zstd,
            max_bytes=layout.max_bytes,
            leased=bool(row["lease"][0]),
            measure=bool(row["work"][0] == Purpose.MEASURE),
        )
        return pb.AwaitReply(task=task, outcomes=told)

    async def on_download(self, request: Any, context: Any) -> None:
        """The model of a task, from an offset on."""
        member = await self._member(request.caller, context, "Download")
        row = self._hub.conductor.task_of(member.client)
        if row is None or int(row["ticket"][0]) != request.ticket:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"task {request.ticket} is over")
        assert row is not None
        model = await self._hub.with_space(self._hub.models.of, int(row["version"][0]))
        try:
            file = model.path.open("rb")
        except FileNotFoundError:  # a version was made meanwhile, and no task needs this one any more
            await context.abort(grpc.StatusCode.NOT_FOUND, f"task {request.ticket} is over")
        with file:
            file.seek(max(0, request.offset))
            piece = min(max(request.piece or PIECE, LEAST_PIECE), PIECE)
            while True:
                async with self._sending.turn():
                    if not (data := file.read(piece)):
                        break
                    await context.write(pb.Chunk(data=data))
                    del data  # who waits for its turn holds nothing

    async def on_held(self, request: Any, context: Any) -> Any:
        """Where an upload goes on, when it is its turn. The stream by which it came before is over."""
        member = await self._member(request.caller, context, "Held")
        await self._check_nonce(member, request.ticket, request.nonce, context)
        if self._hub.conductor.is_out(member.client, request.ticket):
            if (awaited := self._awaited.get(request.ticket)) is not None:
                awaited.reschedule(asyncio.get_running_loop().time())
            async with self._locks.setdefault(request.ticket, asyncio.Lock()):
                pass  # all that has come is written now
            if not await self._turns.take(request.ticket):
                return pb.HeldReply(queued=True)
        return pb.HeldReply(offset=self._hub.spool.held(request.ticket))

    async def _check_nonce(self, member: Member, ticket: int, nonce: bytes, context: Any) -> None:
        row = self._hub.conductor.task_of(member.client)
        if row is None or int(row["ticket"][0]) != ticket:
            return
        version = int(row["version"][0])
        model = await self._hub.with_space(self._hub.models.of, version)
        right = self._hub.conductor.roster.nonce(member.client, ticket, version, model.sha256)
        if not hmac.compare_digest(right, nonce):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the nonce is not that of task {ticket}")

    async def on_upload(self, parts: AsyncIterator[Any], context: Any) -> Any:
        """Takes an update, once: the reply comes when it is on the disk and in the journal."""
        first = await anext(aiter(parts), None)
        if first is None or first.WhichOneof("part") != "head":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an upload begins with its head")
        head, began = first.head, time.monotonic()  # type: ignore[union-attr]
        member = await self._member(head.caller, context, "Upload")
        async with self._locks.setdefault(head.ticket, asyncio.Lock()):
            try:
                return await self._upload(member, head, parts, context, began)
            finally:
                self._turns.end(head.ticket)

    async def _upload(
        self, member: Member, head: Any, parts: AsyncIterator[Any], context: Any, began: float
    ) -> Any:
        ticket, spool = head.ticket, self._hub.spool
        if ticket in self._consumed:
            if self._consumed[ticket] == (head.nonce, head.sha256):
                return pb.UploadReply(status="taken", why="it had been taken before")
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS, f"ALREADY_CONSUMED: the nonce of task {ticket} has been used"
            )
        row = self._hub.conductor.task_of(member.client)
        if row is None or row["ticket"][0] != ticket or row["work"][0] == Purpose.MEASURE:
            return pb.UploadReply(status="unwanted", why=f"task {ticket} is over, or wants no update")
        await self._check_nonce(member, ticket, head.nonce, context)
        if head.total_bytes > spool.max_bytes:
            why = f"the update has {head.total_bytes:,} bytes, but {spool.max_bytes:,} are allowed"
            return await self._take(member, head, Refusal.WRONG_SHAPE, why, began, num_bytes=0)
        held = spool.held(ticket)
        if not 0 <= head.offset <= held:
            return pb.UploadReply(status="damaged", why=f"{held:,} bytes are here, not {head.offset:,}")
        incoming = await self._hub.with_space(spool.receive, ticket, head.offset)
        try:
            await self._receive(head, parts, incoming)
        except TimeoutError:
            stall = self._hub.deploy.stall_secs
            await context.abort(
                grpc.StatusCode.ABORTED,
                f"nothing came for deploy.stall_secs = {stall:g} s, or it goes on by another stream",
            )
        finally:  # a write may be under way in a thread, whose call was cancelled
            self._turns.end(ticket)  # others send while this one is synced and checked
            await asyncio.to_thread(incoming.close)
        if incoming.at < head.total_bytes:
            return pb.UploadReply(status="damaged", why="the upload ended early")
        try:
            await self._hub.with_space(spool.finish, ticket, incoming.sha256, head.sha256)
        except DamagedError as error:
            return pb.UploadReply(status="damaged", why=str(error))
        except WireError as error:
            return await self._take(member, head, Refusal.WRONG_SHAPE, str(error), began)
        report = report_row(member, head)
        refusal = await asyncio.to_thread(self._check, ticket, report)
        if not 0 <= report["num_examples"][0] <= member.num_examples:
            refusal = Refusal.BAD_WEIGHT
        return await self._take(member, head, refusal, REASONS.get(refusal, ""), began)

    async def _receive(self, head: Any, parts: AsyncIterator[Any], incoming: Incoming) -> None:
        """Writes the parts to the spool. What is too much is left out.

        Raises:
            TimeoutError: Nothing has come for `stall_secs`, or the client goes on by another stream.
        """
        coming = aiter(parts)
        while incoming.at < head.total_bytes:
            try:
                async with asyncio.timeout(self._hub.deploy.stall_secs) as awaited:
                    self._awaited[head.ticket] = awaited
                    with self._turns.until_it_comes(head.ticket):
                        part = await anext(coming, None)
            finally:
                self._awaited.pop(head.ticket, None)
            if part is None:
                break
            data = memoryview(part.data)[: head.total_bytes - incoming.at]
            del part  # half of what an upload holds in memory while it waits for its turn at the disk
            await self._hub.with_space(incoming.write, data, incoming.at)
            self._hub.heard[head.caller.client] = time.monotonic()

    async def _take(
        self,
        member: Member,
        head: Any,
        refusal: Refusal,
        why: str,
        began: float,
        num_bytes: int | None = None,
    ) -> Any:
        """Journals an arrival and acknowledges it; a refused update has arrived too, and weighs nothing.

        `num_bytes` have come; None: all that were announced.
        """
        report = report_row(member, head)
        secs = float(report["secs"][0])
        more = {
            "sha256": head.sha256[:64],
            "nonce": head.nonce[:16].hex(),
            "bytes": int(head.total_bytes) if num_bytes is None else num_bytes,
            "report": {name: report[name][0].item() for name in REPORTED},
            "refused": int(refusal),
        }
        counted = await self._hub.submit(
            Kind.ARRIVED,
            client=member.client,
            ticket=head.ticket,
            steps=int(report["num_steps"][0]),
            secs=secs if 0 <= secs < MAX_SECS else 0.0,
            send_secs=time.monotonic() - began,
            more=more,
        )
        if not counted:
            self._hub.spool.drop([head.ticket])
            return pb.UploadReply(status="unwanted", why=f"task {head.ticket} is over")
        self._consumed[head.ticket] = (head.nonce, head.sha256)
        while len(self._consumed) > MAX_CONSUMED:
            self._consumed.popitem(last=False)
        if refusal == Refusal.NONE:
            return pb.UploadReply(status="taken")
        self._hub.say(f"an update of {member.name} was refused: {why}")
        return pb.UploadReply(status="refused", why=why)

    async def on_progress(self, request: Any, context: Any) -> Any:
        """What a leased task does after its steps; to be asked again if there is no answer in time."""
        member = await self._member(request.caller, context, "Progress")
        said = (request.step_secs, request.send_secs)
        if request.steps < 0 or not all(0 <= secs < MAX_SECS for secs in said):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"steps and seconds must be 0 or more: {said}"
            )
        more = await more_steps(self._hub, member.client, request.ticket, request.steps, *said)
        return pb.ProgressReply(steps=max(more or 0, 0), finish=more == FINISH, stop=more == OVER)

    async def on_measured(self, request: Any, context: Any) -> Any:
        """How good the model of a task is on its client's examples."""
        member = await self._member(request.caller, context, "Measured")
        row = self._hub.conductor.task_of(member.client)
        if row is not None and row["ticket"][0] == request.ticket and row["work"][0] == Purpose.MEASURE:
            num = said_or(member.num_examples, request.num_examples)
            num = min(max(num, 0), member.num_examples)
            said = dict(zip(ANSWER, (num, request.loss, request.accuracy), strict=True))
            more = {"measured": said, "bytes": ANSWER_BYTES}
            await self._hub.submit(Kind.ARRIVED, client=member.client, ticket=request.ticket, more=more)
        return pb.MeasuredReply()

    async def on_beat(self, request: Any, context: Any) -> Any:
        """A heartbeat: the lease begins anew."""
        member = await self._member(request.caller, context, "Beat")
        working = request.ticket >= 0
        stop = working and not self._hub.conductor.is_out(member.client, request.ticket)
        return pb.BeatReply(stop=stop)

    async def on_fail(self, request: Any, context: Any) -> Any:
        """A client's training failed: its task is lost, and why is in the log."""
        member = await self._member(request.caller, context, "Fail")
        if self._hub.conductor.is_out(member.client, request.ticket):
            self._hub.say(
                f"{member.name} could not train task {request.ticket}: {request.error[:500]}\n"
                f"{request.traceback[:MAX_TEXT]}".rstrip()
            )
            await self._hub.submit(
                Kind.LOST,
                client=member.client,
                ticket=request.ticket,
                reason=Reason.DROPPED,
                more={"failed": request.error[:500] or "it failed"},
            )
        return pb.FailReply()

    async def on_leave(self, request: Any, context: Any) -> Any:
        """A client says goodbye."""
        member = await self._member(request.caller, context, "Leave")
        self._hub.heard.pop(member.client, None)
        if self._hub.conductor.ended is None:
            await self._hub.submit(Kind.LEFT, client=member.client, reason=Reason.LEFT)
        return pb.LeaveReply()

    async def farewell(self, secs: float) -> None:
        """Returns when all clients that are there know that the run has ended, or after `secs`."""
        until = time.monotonic() + secs
        while time.monotonic() < until:
            here = self._hub.conductor.roster.present().tolist()
            if set(here) & set(self._hub.heard) <= self._told:
                break
            await asyncio.sleep(0.02)

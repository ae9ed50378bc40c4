"""Clients with a training of their own: a loop around `muster.client`, or a function for `--train`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from muster.core.errors import UserError
from muster.core.examples import Examples
from muster.core.part import resolve
from muster.core.store import decode, encode
from muster.learn.learner import Matrix
from muster.learn.states import UNSENT
from muster.learn.uploads import encoded
from muster.net.client import Client, Say, Task
from muster.track.folder import to_stderr

from . import errand as errands
from .door import Door, open_link
from .lasting import Lasting
from .local_training import LocalTraining, OneClient, Train, answer


def client(
    address: str,
    name: str,
    *,
    num_examples: int,
    certs: str | Path | None = None,
    token_file: str | Path | None = None,
    insecure: bool = False,
    say: Say = to_stderr,
) -> Client:
    """A client of a deployed run, for a training loop of your own: iterate over it for tasks.

        for task in muster.client("host:7433", "hospital-a", num_examples=812, certs="certs"):
            task.submit(train(task.model))

    Args:
        address: HOST:PORT of the server.
        name: Who you are; the certificate's name.
        num_examples: On which each task trains: what the update weighs by; -1: as many as the client's row of
            the job's data set has.
        certs: Folder with NAME.crt, NAME.key and ca.crt.
        token_file: A token instead of a certificate.
        insecure: Plaintext, to a server on this machine.
        say: Told what you should know.

    Raises:
        UserError: The server refuses, or is not reached; from the loop.
    """
    door = Door(
        address,
        name,
        None if certs is None else Path(certs),
        None if token_file is None else Path(token_file),
        insecure,
    )
    member, lasting = Client(open_link(door, say), name, num_examples, say), Lasting()

    member.joined = lambda: outfit(member, lasting)
    return member


def own(
    reference: str, member: Client, examples: Examples, lasting: Lasting, allow_code: bool = False
) -> Train:
    """Trains by a user's function: params and data in, params (and metrics, if it likes) out.

    A client that is asked how good the model is answers with the job's own model and task.

    Raises:
        UserError: There is no such function, or the job's clients must do what no such function can.
    """
    function = resolve(reference)
    if not callable(function):
        raise UserError(f"{reference} must be a function train(params, data, task)")
    outfit(member, lasting)
    asked = None
    if errands.of(member.recipe, "asks"):
        errand = errands.read(member.recipe, allow_code)
        asked = LocalTraining(errand, OneClient(examples, member.row, errand))  # type: ignore[arg-type]

    def train(task: Task) -> None:
        if task.measure:
            assert asked is not None
            answer(task, asked.measure(member.row, task.sent, None), len(examples))
            return
        returned = function(task.model, examples, task)
        params, metrics = returned if isinstance(returned, tuple) else (returned, {})
        loss = float(metrics.get("loss", float("nan")))
        task.submit(params, num_examples=len(examples), num_steps=int(metrics.get("num_steps", 0)), loss=loss)

    return train


def outfit(member: Client, lasting: Lasting) -> None:
    """Has a client that trains in its own way compress what it sends as the job wants.

    Raises:
        UserError: The job's clients do more than send a trained model.
    """
    if told := errands.of(member.recipe, "demands"):
        raise UserError(
            f"{told}: a training of your own (--train, muster.client) can only send a trained model; take "
            "another algorithm, or write the training as a class of its own for algorithm.local"
        )
    rule, seeds = (errands.of(member.recipe, name) for name in ("compress", "seeds"))
    if rule is None:
        return

    def pack(task: Task, vectors: Matrix) -> list[bytes] | None:
        if not np.isfinite(vectors).all():
            return None  # the gate is to see it
        kept = {} if lasting.kept is None else decode(lasting.kept)
        made = encoded(rule, seeds["training"], member.row, task.attempt, vectors, kept.get(UNSENT))
        if made.unsent is not None:
            lasting.offer(task.ticket, encode({UNSENT: made.unsent}))
        return made.packed

    member.rule, member.pack, member.outcome = rule, pack, lasting.settle

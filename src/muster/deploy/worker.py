"""`muster join`: a client that trains as a simulation would, on its own data or by a user's own function."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from muster.core.errors import UserError
from muster.core.examples import Examples
from muster.core.tables import TASK, rows
from muster.core.work import Steps
from muster.learn.device import ALLOWED, DEVICES, choose_device, lacking
from muster.models.model import Model
from muster.net.client import Client, Say, Task
from muster.net.wire import Route
from muster.track.folder import to_stderr

from . import errand as errands
from .door import Door, open_link
from .errand import Errand
from .lasting import Lasting
from .local_training import LocalTraining, OneClient, Train, answer
from .own_training import own


def join(
    door: Door,
    *,
    data: Path | None = None,
    train: str | None = None,
    home: Path | None = None,
    allow_code: bool = False,
    step_secs: float = 0.0,
    device: str = "cpu",
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Takes part in a run to its end.

    Args:
        door: The server, and how to get in.
        data: A prepared folder, or a .npz file with x and y; None: the client's row of the job's data set.
        train: `FILE.py:function`, called with (params, data, task); None: as the job says.
        home: Where lasting state is kept; None: in memory only.
        allow_code: Whether Python files of this machine that the job names may be run.
        step_secs: A step takes so long at least: for experiments with slow clients.
        device: What torch computes on: cpu, cuda, cuda:N or auto.
        say: Told what the user should know.

    Returns:
        JSON data: how the run has ended, how many tasks were worked on, how often a call or a transfer broke,
        and how many bytes were sent again for it.

    Raises:
        UserError: The server refuses, the data does not fit, ...

    """
    check_device(device)
    examples = None if data is None else local_examples(data, door.name)
    member = Client(open_link(door, say), door.name, -1 if examples is None else len(examples), say)
    member.step_secs, num, lasting = step_secs, 0, Lasting(home)
    try:
        member.join()
        if examples is None:
            from muster.data.store import prepare

            dataset, seeds = (errands.of(member.recipe, name, allow_code) for name in ("data", "seeds"))
            examples = prepare(dataset, seeds["data"]).client(member.row)
        member.pending |= set(lasting.waiting)
        member.outcome = lasting.settle
        if train:
            work = own(train, member, examples, lasting, allow_code)
        else:
            errand = errands.read(member.recipe, allow_code)
            device = chosen(device, errand.backend, errand.model)
            errand = replace(errand, numerics=errand.numerics.on(device))
            work = learnt(member, errand, examples, lasting)
        for task in member:
            _done(work, task, say)
            num += 1
    finally:
        member.close()
    ended, link = member.ended, member.link
    body = {"status": ended.status, "why": ended.why, "num_tasks": num, "client": member.row}
    return {**body, "num_breaks": link.num_breaks, "resent_bytes": link.num_resent}


def check_device(device: str) -> None:
    """Finds out before a client joins whether it could train on a device.

    Raises:
        UserError: It could not, and why.
    """
    if not DEVICES.fullmatch(device):
        raise UserError(f"--device is {device!r}, but must be {ALLOWED}")
    if device.startswith("cuda") and (problem := lacking(device)):
        raise UserError(_of_option(problem))


def chosen(device: str, backend: str, model: Model) -> str:
    """What `--device` comes to for a model, as `choose_device` has it for a job's setting.

    Raises:
        UserError: As there.
    """
    try:
        return choose_device(device, backend, model)
    except UserError as error:
        raise UserError(_of_option(str(error))) from error


def _of_option(problem: str) -> str:
    """The same of the option of a client, which knows no job file."""
    problem = problem.replace("engine.device=", "--device ").replace("engine.device", "--device")
    return problem.replace("engine.backend=torch", "engine.backend=torch in the job")


def _done(work: Train, task: Task, say: Say) -> None:
    """Works on a task; what training raises is told to the server, and ends the task only."""
    try:
        work(task)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        say(f"task {task.ticket} failed: {type(error).__name__}: {error}")
        task.fail(error)


def learnt(member: Client, errand: Errand, examples: Examples, lasting: Lasting) -> Train:
    """Trains with the same learner as a simulation, to the same bits."""
    from muster.net.rpc import pb

    training = LocalTraining(errand, OneClient(examples, member.row, errand))  # type: ignore[arg-type]
    local, spec = errand.local, training.learner.spec
    if spec != member.spec:
        raise UserError("this machine builds another model than the server: are both of the same version?")
    member.route = lambda spec: Route.of(spec.size, spec.places(local.personal(spec)))
    member.down, member.rule = local.down, errand.compress

    def train(task: Task) -> None:
        began = time.perf_counter()
        if task.measure:
            found = training.measure(member.row, task.sent, lasting.kept)
            answer(task, found, len(examples))
            return
        row = rows(TASK, 1, ticket=task.ticket, client=member.row, attempt=task.attempt)
        row["version"], row["steps"] = task.version, task.steps
        if not task.leased:
            task.steps = training.num_steps(member.row, task.steps)
        steps = Steps(None if task.leased else task.steps, task.another)
        made = training.train(row, task.sent, lasting.kept, steps)
        if task.stopped:
            return
        if made.state is not None:
            lasting.offer(task.ticket, made.state)
        report = pb.Report(
            num_examples=len(examples),
            num_steps=made.trained.num_steps,
            loss=made.trained.loss,
            loss_sq_mean=made.trained.loss_sq_mean,
            loss_before=made.loss_before,
            secs=time.perf_counter() - began,
        )
        task.send(dict(zip(local.up, made.up, strict=True)), report, made.packed)

    return train


def local_examples(path: Path, name: str) -> Examples:
    """A client's own data.

    Args:
        path: A prepared folder that holds one client, or several of which one has this name; or a .npz
            file with arrays x and y.
        name: The client's.

    Raises:
        UserError: There is no such data, or it does not say which part is this client's.
    """
    from muster.data.federated import FederatedData

    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Examples(arrays["x"], np.asarray(arrays["y"], np.int64))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} must be a .npz file with arrays x and y ({error})") from error
    data = FederatedData.open(path)
    if data.num_clients == 1:
        return data.client(0)
    if name in data.client_names:
        return data.client(data.client_names.index(name))
    raise UserError(
        f"{path} holds the data of {data.num_clients} clients, and none is called {name}; give each client a "
        "folder or a .npz file of its own"
    )

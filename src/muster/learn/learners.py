"""Which backend trains a model, and its learner."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias, cast, get_args

from muster.core.algorithm import Local
from muster.core.errors import UserError, nearest
from muster.core.examples import Facts
from muster.core.work import Work
from muster.models.dense import Dense
from muster.models.model import Model
from muster.tasks.task import Task

from .cohort import chunk_for, chunk_for_compiled, chunk_on_device, side_by_side
from .learner import Learner
from .numerics import Numerics

Backend: TypeAlias = Literal["torch", "numpy", "numba", "jax"]
Asked: TypeAlias = Literal["auto", Backend]
"""What a job may ask for."""
ASKED: tuple[str, ...] = get_args(Asked)


def choose_backend(asked: str, model: Model) -> Backend:
    """Whose arrays train a model. `auto` takes torch where it is installed and the model has it, else numpy.

    Raises:
        UserError: The model does not have the backend asked for, or what is needed is not installed.
    """
    if asked not in ASKED:
        raise UserError(f"backend is {asked!r}, but must be one of {', '.join(ASKED)}{nearest(asked, ASKED)}")
    name, installed = model.part_name(), find_spec("torch") is not None
    if asked == "auto":
        if "torch" in model.backends and (installed or "numpy" not in model.backends):
            asked = "torch"
        else:
            asked = "numpy"
    if asked not in model.backends:
        raise UserError(
            f"backend {asked} cannot train model {name}; it trains with {', '.join(model.backends)}"
        )
    if asked == "torch" and not installed:
        raise UserError(f"model {name} needs torch, which is not installed: pip install 'muster-fl[torch]'")
    if asked == "jax" and find_spec("jax") is None:
        raise UserError("engine.backend jax needs JAX, which is not installed: pip install 'muster-fl[jax]'")
    if asked == "numba" and find_spec("numba") is None:
        raise UserError(
            "engine.backend numba needs numba, which is not installed: pip install 'muster-fl[numba]'"
        )
    return cast(Backend, asked)


@dataclass(frozen=True)
class Choice:
    """How clients are trained: it is written to the job, because it may change bits."""

    backend: Backend
    mode: Literal["sequential", "cohort"]
    chunk: int
    """Clients that train together; 1 one after another."""
    why: str


def choose_engine(
    backend: str,
    mode: str,
    chunk: int | Literal["auto"],
    model: Model,
    facts: Facts,
    local: Local,
    numerics: Numerics = Numerics(),
    task: Task | None = None,
) -> Choice:
    """The engine, from the model and the rule alone: never from timing.

    `auto` trains cohorts, in NumPy unless JAX is asked for, where the model is dense and so small that
    several fit into the cache, the local rule is one for many clients side by side, and nothing is asked
    for that only torch has. Where cohorts are asked for, all other models, and all with `backend` torch,
    are torch's.

    On a GPU cohorts in torch are trained where the rule and the model allow them, which is tried if `task` is
    given, and nothing is asked for that they do not have.

    Raises:
        UserError: What is asked for does not go together.
    """
    gpu = numerics.device != "cpu"
    if gpu and mode == "auto":
        many = chunk_on_device(_num_bytes(model, facts)) if chunk == "auto" else chunk
        if many > 1 and _together_on_gpu(model, facts, local, numerics, task):
            return Choice("torch", "cohort", many, f"engine: cohorts of {many} clients (auto: on a GPU)")
    many = 1 if chunk == "auto" else chunk
    fitting_mode = mode != "sequential" and backend != "torch" and not numerics.of_torch
    dense = as_dense(model, facts) if fitting_mode else None
    able = dense is not None
    if chunk == "auto" and (able or mode == "cohort"):
        fitting = chunk_for_compiled if backend == "jax" else chunk_for
        fitting = chunk_on_device if gpu else fitting
        many = fitting(_num_bytes(dense or model, facts))
    if mode == "cohort" and not side_by_side(local):
        rule = local.part_name()
        raise UserError(
            f"engine.mode cohort needs a local rule that works on rows of clients; {rule} does not"
        )
    if mode == "cohort" or (mode == "auto" and able and many > 1 and side_by_side(local)):
        said = "" if mode == "cohort" else " (auto: a dense model of which many fit into the cache)"
        arrays = "numpy" if able and backend == "auto" else choose_backend(backend, model)
        return Choice(arrays, "cohort", many, f"engine: cohorts of {many} clients{said}")
    why = "" if mode == "sequential" else " (auto)"
    return Choice(choose_backend(backend, model), "sequential", 1, f"engine: one client after another{why}")


def _together_on_gpu(model: Model, facts: Facts, local: Local, numerics: Numerics, task: Task | None) -> bool:
    """Whether cohorts in torch can train a job on the GPU: one is put together there to see."""
    choose_backend("torch", model)
    if task is None or not side_by_side(local):
        return False
    from .device_cohort import DeviceCohort

    try:
        DeviceCohort(model, task, facts, local, Work(), numerics)
    except UserError:  # what is wrong with the job as a whole is told by the learner that is made of it
        return False
    return True


def as_dense(model: Model, facts: Facts) -> Dense | None:
    """The model as dense layers with relu between them, which every backend trains; None if it is more.

    Raises:
        UserError: It is a user's own, and cannot be built.
    """
    if isinstance(model, Dense) or "numpy" not in model.backends:
        return model if isinstance(model, Dense) else None
    from .lowered import lowered

    return lowered(model, facts)


def _num_bytes(model: Model, facts: Facts) -> int:
    """Of all that travels. Models other than dense ones are built to see."""
    if isinstance(model, Dense):
        return model.spec(facts).num_bytes
    choose_backend("torch", model)
    from .torch_module import num_bytes

    return num_bytes(model, facts)


def _check_fits(model: Dense, facts: Facts) -> None:
    """Refuses a model that is larger than this machine's memory, before it is built."""
    size = sum((ins + 1) * outs for ins, outs in model.layers(facts))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * size > memory:
        raise UserError(
            f"model {model.part_name()} has {size:,} parameters, {4 * size / 1e9:,.0f} GB, but this machine "
            f"has {memory / 1e9:,.0f} GB of memory; make the model smaller"
        )


def make_learner(
    backend: str,
    model: Model,
    task: Task,
    facts: Facts,
    local: Local,
    work: Work,
    numerics: Numerics = Numerics(),
    chunk: int = 0,
) -> Learner:
    """The learner of `backend` (as `choose_backend` gave it), which imports its framework now.

    Its clients train together if `chunk` is not 0: it is then a `CohortLearner`.

    Raises:
        UserError: The model cannot be built, or does not fit the task and the data.
    """
    if isinstance(model, Dense):
        _check_fits(model, facts)
    if backend != "torch" and numerics.of_torch:
        raise UserError(
            "engine.gradients fused and factored, engine.layout channels_last, engine.precision but float32, "
            "engine.convolutions unfolded, engine.graphs and engine.device other than cpu "
            f"are for backend torch, but this is {backend}; use engine.backend=torch, or leave them out"
        )
    if backend != "torch":
        model = as_dense(model, facts) or model
    if backend == "numpy":
        from .numpy_learner import NumpyLearner

        return NumpyLearner(model, task, facts, local, work)
    if backend == "numba":
        from .numba_learner import NumbaLearner

        return NumbaLearner(model, task, facts, local, work)
    if backend == "jax":
        from .jax_learner import JaxLearner

        return JaxLearner(model, task, facts, local, work)
    if chunk and numerics.device != "cpu":
        from .device_cohort import DeviceCohort

        return DeviceCohort(model, task, facts, local, work, numerics)
    if chunk:
        from .torch_cohort import TorchCohort

        return TorchCohort(model, task, facts, local, work, numerics)
    if numerics.device != "cpu":
        from .device_learner import DeviceLearner

        return DeviceLearner(model, task, facts, local, work, numerics)
    from .torch_learner import TorchLearner

    return TorchLearner(model, task, facts, local, work, numerics)

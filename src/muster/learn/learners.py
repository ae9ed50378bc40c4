"""Which backend trains a model, and its learner."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from muster.core.algorithm import Local
from muster.core.errors import UserError, nearest
from muster.core.examples import Facts
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.task import Task

from .learner import Learner

ASKED = ("auto", "torch", "numpy")
"""What a job may ask for."""


def choose_backend(asked: str, model: Model) -> Literal["torch", "numpy"]:
    """`torch` or `numpy`. `auto` takes torch where it is installed and the model has it, else numpy.

    Raises:
        UserError: The model does not have the backend asked for, or torch is needed and not installed.
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
    return "torch" if asked == "torch" else "numpy"


def make_learner(backend: str, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> Learner:
    """The learner of `backend` (as `choose_backend` gave it), which imports its framework now.

    Raises:
        UserError: The model cannot be built, or does not fit the task and the data.
    """
    if backend == "numpy":
        from .numpy_learner import NumpyLearner

        return NumpyLearner(model, task, facts, local, work)
    from .torch_learner import TorchLearner

    return TorchLearner(model, task, facts, local, work)

"""What compiled cohorts of dense models share: one client is a cohort of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import Draws, key_of
from muster.core.work import Steps, Work
from muster.models.model import Model
from muster.tasks.task import Task

from .client import OwnClient
from .learner import Matrix, Sent, Trained
from .numpy_learner import NumpyLearner


class CompiledLearner(NumpyLearner):
    """Trains cohorts by a compiled program; evaluates as `NumpyLearner` does.

    Raises:
        UserError: As `NumpyLearner`, or clients train by code of a user's own.
    """

    backend: ClassVar[str]

    def __init__(self, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> None:
        super().__init__(model, task, facts, local, work)
        if isinstance(local, OwnClient):
            raise UserError(
                f"backend {self.backend} trains by local rules, not by a client of your own; use torch"
            )

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int | Steps = 0,
    ) -> Trained:
        """Trains a cohort of one; see `Learner`.

        A program cannot be asked between its steps: a task whose end is not known is trained by NumPy.
        """
        if isinstance(steps, Steps):
            if steps.num_steps is None:
                return super().train(sent, examples, rng, up, kept, steps)
            steps.another(0)
            steps = steps.num_steps
        rows = {name: vector[None] for name, vector in sent.items()}
        owned, asked = [slice(0, len(examples))], np.array([steps], np.int64)
        done = self.train_together(rows, examples, owned, Draws(key_of(rng)), up[None], [kept], asked)
        return Trained(int(done.num_steps[0]), float(done.loss[0]), float(done.loss_sq_mean[0]), done.kept[0])

"""What compiled cohorts of dense models share: one client is a cohort of one.

Where numba is installed, what is around them is compiled too, to the same bits as without.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import Draws, key_of
from muster.core.sums import SAFE, FixedPointSum
from muster.core.work import Steps, Work
from muster.models.model import Model
from muster.tasks.task import Task

from .client import OwnClient
from .learner import Matrix, Sent, Trained
from .numpy_learner import NumpyLearner
from .passes import Passes
from .together import TrainsTogether

kernels: Any = None
if find_spec("numba") is not None:
    from . import kernels


class ExactPasses(Passes):
    """Compiled where NumPy's bits can be had so."""

    def extremes(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Passes`."""
        found = np.empty(len(vectors), np.int32)
        kernels.largest(vectors.view(np.int32), found)
        return found.view(np.float32)

    def add(
        self,
        total: FixedPointSum,
        vectors: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float64],
        largest: float,
    ) -> None:
        """See `Passes`."""
        factors = weights * 2.0**total.scale
        if float(factors.max(initial=0.0)) * largest < SAFE:
            kernels.add(vectors, factors, total.total)
        else:
            super().add(total, vectors, weights, largest)


class CompiledShuffles(TrainsTogether):
    """Cohorts whose clients' examples are shuffled by a compiled loop where numba is installed."""

    def _shuffle(
        self,
        index: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        draws: Draws,
        steps: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        if kernels is None:
            return super()._shuffle(index, sizes, draws, steps, lengths)
        counts = self._work.num_steps(sizes, steps.astype(np.int32))
        kernels.shuffle(index, draws.keys, sizes, counts, self._work.batch_size or int(sizes.max()))
        return None


class CompiledLearner(CompiledShuffles, NumpyLearner):
    """Trains cohorts by a compiled program; evaluates as `NumpyLearner` does.

    Raises:
        UserError: As `NumpyLearner`, or clients train by code of a user's own.
    """

    backend: ClassVar[str]
    passes = Passes() if kernels is None else ExactPasses()

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

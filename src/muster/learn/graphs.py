"""A cohort's step on tensors that stay where they are, so that a GPU can record it once and start it whole.

A step of many clients is a series of small kernels, each of which the processor starts: some five
microseconds a piece, whether it computes for one client or for a hundred. A CUDA graph is such a series as it
was recorded, which one call starts. It always reads and writes the same addresses in the same shapes. So the
models, the places of a batch's examples and what comes of a step lie in tensors that are made once, and there
is a graph for each of a few numbers of clients: clients that are fewer train beside rows that count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from muster.core.errors import UserError

from .cohort import few
from .resident import Resident

Program: TypeAlias = Callable[[], None]
"""Does a step on the tensors it was made for."""

WARM_UP = 3
"""Runs before a step is recorded, in which libraries choose kernels and take the memory they keep."""


class Teach(Protocol):
    """One step of the first clients."""

    def __call__(
        self, params: Tensor, inputs: Tensor, targets: Tensor, real: Tensor, gradient: Tensor
    ) -> Tensor:
        """Moves the models `params`, f32[n, size], or leaves their gradients in the first rows of `gradient`.

        It works in place, waits for nothing, and does nothing to clients none of whose examples count.

        Args:
            params: The models.
            inputs: [n, B, ...].
            targets: [n, B].
            real: i64[n], how many of each batch count.
            gradient: f32[>= n, trained].

        Returns:
            The losses, f32[n, B].

        """
        ...


class Recorder(Protocol):
    """Makes programs of steps."""

    def __call__(self, step: Program) -> Program:
        """What does the same as `step`. It may run `step` to make it."""
        ...


class FixedSteps:
    """Steps of up to `rows` clients on tensors of their own.

    Args:
        teach: What a step does.
        rows: How many clients at most; a number of `few`.
        size: Numbers of a model.
        slopes: Numbers of a gradient, where `teach` leaves one.
        batch: Examples of a step.
        there: Where examples are drawn from.
        record: Makes the programs; None: whoever fits the device.

    """

    def __init__(
        self,
        teach: Teach,
        rows: int,
        size: int,
        slopes: int,
        batch: int,
        there: Resident,
        record: Recorder | None = None,
    ) -> None:
        device = there.targets.device
        self.there, self.rows = there, rows
        self._teach, self._record = teach, record or recorder(device)
        self._params = torch.zeros((rows, size), device=device)
        self._gradient = torch.zeros((rows, slopes), device=device)
        self._losses = torch.zeros((rows, batch), device=device)
        self._places = torch.zeros((rows, batch), dtype=torch.int64, device=device)
        self._real = torch.zeros(rows, dtype=torch.int64, device=device)
        self._programs: dict[int, Program] = {}

    def begin(self, models: Tensor, lives: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Takes in the models of K clients, f32[K, size], of whom so many will train side by side.

        Programs are made before, since to try a step moves what lies there.

        Returns:
            Where the models lie now, f32[K, size], and where their gradients will, f32[K, slopes].

        """
        self._real.zero_()  # in rows that none of these clients has nothing counts
        for rows in sorted({few(live) for live in lives} - self._programs.keys(), reverse=True):
            self._programs[rows] = self._record(partial(self._step, rows))
        count = len(models)
        self._params[:count] = models
        return self._params[:count], self._gradient[:count]

    def __call__(self, places: Tensor, real: Tensor, live: int) -> Tensor:
        """One step of the first `live` clients; returns their losses, f32[live, B].

        Args:
            places: i64[K, B], the examples of each client's batch.
            real: i64[K], how many of them count: 0 of those that are not `live`.
            live: How many clients still train.

        """
        rows = few(live)
        given = min(rows, len(places))
        self._places[:given] = places[:given]
        self._real[:given] = real[:given]
        self._programs[rows]()
        return self._losses[:live].clone()

    def _step(self, rows: int) -> None:
        """What is recorded for so many rows."""
        chosen = self._places[:rows].reshape(-1)
        inputs, targets = (
            each.index_select(0, chosen).view(rows, self._places.shape[1], *each.shape[1:])
            for each in (self.there.inputs, self.there.targets)
        )
        self._losses[:rows] = self._teach(
            self._params[:rows], inputs, targets, self._real[:rows], self._gradient
        )


def recorder(device: torch.device) -> Recorder:
    """Makes CUDA graphs where there are such; anywhere else a step is its own program."""
    return Graphs(device) if device.type == "cuda" else _itself


def _itself(step: Program) -> Program:
    return step


class Graphs:
    """Records steps as CUDA graphs, all in one pool of memory.

    They may share it, as no step begins before the one before it has ended, and what comes of a step lies
    outside. Trials and recording are on one stream beside the current one, as torch asks for: work on the
    default stream cannot be recorded, and cuBLAS and cuDNN keep a workspace for each stream, which must not
    be taken while it is recorded. Only this thread's calls are watched meanwhile, since a user's program may
    use the GPU in another.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Program) -> Program:
        """A graph's replay, on whatever stream is current then.

        Raises:
            UserError: The step does what cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    step()
            current.wait_stream(self._stream)
            recording = torch.cuda.graph(graph, self._pool, self._stream, "thread_local")
            try:
                with recording:
                    step()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                why = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"engine.graphs is true, but a step of this model cannot be recorded ({why}): it waits "
                    "for the GPU, or takes data there from the host; use engine.graphs=false"
                ) from error
        replay: Program = graph.replay
        return replay

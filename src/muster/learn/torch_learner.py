"""One client after another in torch: one working module, no loader, no copy of the model per client."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.memory import keep_freed
from muster.core.params import Vector
from muster.core.work import Steps, Work
from muster.models.dense import Dense
from muster.models.model import Model
from muster.models.own import called
from muster.tasks.task import Task

from .client import ClientData, OwnClient, run_client
from .descent import descend, to_arrays
from .device import unrecorded
from .fused import Fused, steps_along, wide_layers
from .layout import pool_first, pools, turn
from .learner import Learner, Matrix, Scores, Sent, Trained
from .numerics import Gradients, Layout, Numerics
from .torch_module import CPU, FlatModule, build, host, lone_example, model_seed, named_floats, seeded


class TorchLearner(Learner):
    """Trains clients with torch on one thread of the CPU; see `Learner`.

    Parameters, float buffers and gradients are views of flat vectors, so sending a model in, stepping
    and taking the delta are one pass each. All clients share the module, and nothing of one client
    reaches the next: the result is to the bit that of a fresh module per client.

    Raises:
        UserError: The model cannot be built, is not float32, or does not fit the task and the data.
    """

    evaluation_batch = 100
    """Examples that go through the model at once in evaluation: activations of more fall out of the cache."""

    def __init__(
        self,
        model: Model,
        task: Task,
        facts: Facts,
        local: Local,
        work: Work,
        numerics: Numerics = Numerics(),
    ) -> None:
        torch.set_num_threads(1)  # a worker per core is faster, and the same bits on every machine size
        self._device = torch.device(numerics.device)
        self._model, self._task, self._facts, self._local, self._work = model, task, facts, local, work
        if isinstance(local, OwnClient) and numerics.precision != "float32":
            raise UserError(
                f"engine.precision is {numerics.precision}, but must be float32 where a client of your own "
                "trains: it says itself what it computes in"
            )
        if self._device == CPU and numerics.precision == "tf32":
            raise UserError(
                "engine.precision is tf32, which NVIDIA GPUs have, but engine.device is cpu; use float32 or "
                "bfloat16, or engine.device=cuda"
            )
        if numerics.convolutions == "unfolded":
            raise UserError(
                "engine.convolutions unfolded is for cohorts in torch, but clients train one after another; "
                "use auto, or engine.mode=cohort"
            )
        if numerics.graphs:
            raise UserError(unrecorded(numerics.device, "sequential"))
        gradients = self._gradients(numerics)
        along = gradients != "plain" and not isinstance(local, OwnClient) and steps_along(local)
        self._flat = FlatModule(build(model, task, facts, 0), not along, self._device)
        self.spec = self._flat.spec
        last = numerics.layout == "channels_last" or (numerics.layout == "auto" and self._turns(numerics))
        if last:
            turn(self._flat.module)
        if not isinstance(local, OwnClient):
            pool_first(self._flat.module)
        keep_freed()
        layers = []
        if along and gradients != "fused":
            blank = torch.from_numpy(task.blank(facts, 2)).to(self._device)
            layers = wide_layers(self._flat.module, blank, work.batch_size)
        self._fused = Fused(self._flat, layers) if along else None
        made: Gradients = "factored" if layers else "fused" if along else "plain"
        layout: Layout = "channels_last" if last else "channels_first"
        self.numerics = replace(numerics, gradients=made, layout=layout, convolutions="direct")
        if gradients not in ("auto", made):
            raise UserError(
                f"engine.gradients is {gradients}, but must be auto or {made}: fused steps are for "
                "SGD without momentum or weight decay, and factors besides for models with linear layers "
                "that are wide beside train.batch_size"
            )
        if numerics.precision == "bfloat16":
            self._check_bfloat16()

    def _check_bfloat16(self) -> None:
        """Goes through one step's products, since a model may have parts that only know float32.

        Raises:
            UserError: It has.
        """
        inputs = torch.from_numpy(self._task.blank(self._facts, 2)).to(self._device)
        targets = torch.zeros(2, dtype=torch.int64, device=self._device)
        try:
            with seeded(0, self._device), torch.autocast(self._device.type, torch.bfloat16):
                loss = self._task.torch_loss(self._flat.module.train()(inputs), targets)
            loss.mean().backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise UserError(
                f"engine.precision is bfloat16, in which model {called(self._model)} cannot be trained "
                f"({type(error).__name__}: {error}); use engine.precision=float32, or have the part that "
                "fails compute within torch.autocast(x.device.type, enabled=False)"
            ) from error
        if self._fused is not None:
            self._fused.clear()

    def _gradients(self, numerics: Numerics) -> Gradients:
        """What is asked for of gradients, where another device has a rule of its own."""
        return numerics.gradients

    def _turns(self, numerics: Numerics) -> bool:
        """Whether images lie channels last if the job leaves it to us."""
        return pools(self._flat.module)

    def _load(self, params: Vector) -> None:
        """Sets the working model."""
        self._flat.load(params)

    def initial(self, seed: int) -> Vector:
        """The untrained model, f32[spec.size]; depends on the seed only."""
        if isinstance(self._model, Dense):
            return self.spec.pack(self._model.initial(self._facts, seed))
        module = build(self._model, self._task, self._facts, model_seed(seed))
        return self.spec.pack({name: tensor.detach().numpy() for name, tensor, _ in named_floats(module)})

    def lent(self) -> Vector | None:
        """The vector of the module; a client of the user's own has a module of its own."""
        return None if isinstance(self._local, OwnClient) else self._flat.array

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int | Steps = 0,
    ) -> Trained:
        """Trains one client and writes what it sends back into `up`; see `Learner`.

        A client without examples trains nothing: its loss is given as 0.
        """
        if isinstance(self._local, OwnClient):
            return self._train_own(self._local, sent["model"], examples, rng, up[0], kept)
        batches = self._work.plan(len(examples), rng, steps)
        if not len(examples):
            up[:] = 0
            return Trained(0, 0.0, 0.0)
        flat, local, trained, fused = self._flat, self._local, self.spec.trained, self._fused
        numerics = self.numerics
        flat.load(sent["model"])
        flat.module.train()
        before = {name: _shared(vector)[:trained] for name, vector in sent.items()}
        mine = None if kept is None else {name: torch.from_numpy(np.array(v)) for name, v in kept.items()}

        def backward(index: npt.NDArray[np.int64]) -> Tensor:
            if fused is None:
                flat.gradient.zero_()
            else:
                fused.clear()
            with torch.autocast("cpu", torch.bfloat16, enabled=numerics.precision == "bfloat16"):
                loss = self._loss(examples, index)
            loss.mean().backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        step = None if fused is None else partial(fused.step, local)
        with seeded(int(rng.integers(2**63))):
            params = flat.vector[:trained]
            ups, state, each = descend(local, params, flat.gradient, before, mine, batches, backward, step)
        flat.collect()
        np.subtract(flat.array, sent["model"], out=up[0])
        for row, name in zip(up[1:], local.up[1:], strict=True):
            row[:trained], row[trained:] = ups[name], 0
        losses = np.asarray(torch.cat(each).numpy(), np.float64)
        lasting = to_arrays(state) if local.keeps else None
        return Trained(len(batches), float(losses.mean()), float(np.square(losses).mean()), lasting)

    def scores(self, params: Vector, examples: Examples) -> Scores:
        """One batch after another, whose size changes rounding only."""
        self._load(params)
        module, size = self._flat.module.eval(), self.evaluation_batch
        found: dict[str, list[Tensor]] = {}
        with torch.no_grad(), seeded(0, self._device):
            for start in range(0, len(examples), size):
                inputs, targets = self._tensors(examples, slice(start, start + size))
                outputs = module(inputs)
                each = {"loss": self._task.torch_loss(outputs, targets)}
                for name, values in (each | self._task.torch_metrics(outputs, targets)).items():
                    found.setdefault(name, []).append(values)
        return {name: host(torch.cat(parts).double()) for name, parts in found.items()}

    def _loss(self, examples: Examples, index: npt.NDArray[np.int64]) -> Tensor:
        return self._loss_of(*self._tensors(examples, index))

    def _loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        module, norms = self._flat.module, self._flat.norms
        if len(targets) > 1 or not norms:
            return self._task.torch_loss(module(inputs), targets)
        with lone_example(norms):
            return self._task.torch_loss(module(inputs), targets)

    def _tensors(self, examples: Examples, index: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        inputs, targets = self._task.batch(self._facts, examples, index)
        # cloned into torch's own memory, whose alignment is always the same: BLAS may round otherwise
        return torch.from_numpy(inputs).clone(), torch.from_numpy(targets)

    def _train_own(
        self,
        local: OwnClient,
        sent: Vector,
        examples: Examples,
        rng: np.random.Generator,
        delta: Vector,
        kept: Mapping[str, Any] | None,
    ) -> Trained:
        self._load(sent)
        module = copy.deepcopy(self._flat.module).train()  # users may freeze, hook or replace what they like
        for parameter in module.parameters():
            parameter.grad = None
        arrays = {name: host(tensor) for name, tensor, _ in named_floats(module)}

        def named(result: object) -> Mapping[str, npt.ArrayLike] | None:
            if not isinstance(result, torch.nn.Module):
                return None
            tensors = {**dict(result.named_parameters()), **dict(result.named_buffers())}
            return {name: host(tensor) for name, tensor in tensors.items()}

        with seeded(int(rng.integers(2**63)), self._device):
            data = ClientData(*self._tensors(examples, slice(0, len(examples))))
            done = run_client(local, self._work, data, module, rng, kept)
        done.write_delta(self.spec, sent, arrays, named, delta)
        return done.trained(lambda: self.evaluate(sent, examples)["loss"])


def _shared(sent: Vector) -> Tensor:
    """`sent` as a tensor on the same memory. Rules only read it, so a read-only array will do as well."""
    if sent.flags.writeable:
        return torch.from_numpy(sent)

    class Writable:
        __array_interface__ = {**sent.__array_interface__, "data": (sent.ctypes.data, False)}
        owner = sent

    return torch.from_numpy(np.asarray(Writable()))

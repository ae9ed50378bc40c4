"""A torch module whose floats live in one flat vector, so that clients can share it one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.memory import blank
from muster.core.params import ParamSpec, Vector
from muster.core.randomness import key
from muster.models.model import Model
from muster.models.own import called
from muster.tasks.task import Task

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Within it torch draws from `seed` (0 <= seed < 2^63), on a GPU too if it is the device.

    The caller's generators are left as they were.
    """
    gpu = device.type == "cuda"
    state, there = torch.get_rng_state(), torch.cuda.get_rng_state(device) if gpu else None
    torch.default_generator.manual_seed(seed)
    if gpu:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if there is not None:
            torch.cuda.set_rng_state(there, device)


@contextmanager
def products(short: bool) -> Iterator[None]:
    """Within it float32 products of a GPU are of 24 bits, or `short`, of 11; cuDNN does not vary its ways."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = short, short, True, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def host(tensor: Tensor) -> npt.NDArray[Any]:
    """What lies on a device as a NumPy array: waits for it, and copies it from anywhere but the CPU."""
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array


@contextmanager
def lone_example(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within it a BatchNorm that sees one value per channel normalises by its running statistics.

    One value has no variance, and torch refuses it. Such a layer acts for this batch as it does in
    evaluation, and its running statistics stay; all other layers train as ever.
    """
    active = [norm for norm in norms if norm.training and norm.track_running_stats]

    def freeze(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            norm.training = False

    handles = [norm.register_forward_pre_hook(freeze) for norm in active]
    try:
        yield
    finally:
        for norm, handle in zip(active, handles, strict=True):
            handle.remove()
            norm.training = True


def build(model: Model, task: Task, facts: Facts, seed: int) -> nn.Module:
    """The untrained module; its parameters depend on `seed` only.

    Raises:
        UserError: It cannot be built, cannot read the task's inputs, or gives scores of a wrong shape.
    """
    name = called(model)
    with seeded(seed), torch.no_grad():
        module = unchecked(model, facts).eval()
        _check(name, module)
        try:
            outputs = module(torch.from_numpy(task.blank(facts, 2)))
        except Exception as error:
            raise UserError(
                f"model {name} cannot read what task {task.part_name()} makes of {facts.name} (examples of "
                f"shape {list(facts.input_shape)}): {type(error).__name__}: {error}"
            ) from error
    found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != [2, facts.num_classes]:
        raise UserError(
            f"model {name} gives {found} for 2 examples, but must give [2, {facts.num_classes}]: "
            "one score for each class of each example"
        )
    return module


def num_bytes(model: Model, facts: Facts) -> int:
    """Of all that travels; the model is built to see.

    Raises:
        UserError: It cannot be built.
    """
    with seeded(0), torch.no_grad():
        return sum(4 * tensor.numel() for _, tensor, _ in named_floats(unchecked(model, facts)))


def unchecked(model: Model, facts: Facts) -> nn.Module:
    """The module as the model gives it.

    Raises:
        UserError: It cannot be built, or is larger than the memory.
    """
    try:
        return model.torch(facts)
    except RuntimeError as error:
        if "memory" not in str(error) and "overflow" not in str(error):
            raise
        raise UserError(
            f"model {called(model)} does not fit into this machine's memory; make it smaller"
        ) from error


def named_floats(module: nn.Module) -> Iterator[tuple[str, Tensor, str]]:
    """(name, tensor, kind) of all that travels: parameters, then persistent float buffers.

    Tied weights come once. Frozen parameters are `statistic`: they travel, and no rule moves them.
    """
    for name, parameter in module.named_parameters():
        yield name, parameter, _kind(module, name, parameter)
    for name, buffer in module.named_buffers():
        owner, leaf = _place(module, name)
        passing = leaf in owner._non_persistent_buffers_set
        if buffer.is_floating_point() and not passing:
            yield name, buffer, "statistic"


def _kind(module: nn.Module, name: str, parameter: Tensor) -> str:
    if not parameter.requires_grad:
        return "statistic"
    owner, leaf = _place(module, name)
    if isinstance(owner, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)):
        return "norm"
    return "bias" if leaf.startswith("bias") else "weight"


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The part of `module` that holds the parameter or buffer `name`, and its name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def model_seed(seed: int) -> int:
    """What torch draws a run's untrained model from, 0 <= s < 2^63, where the run's seed is `seed`."""
    return key(seed, "model") % 2**63


class FlatModule:
    """One module and the flat vectors that its parameters, float buffers and gradients are views of.

    `vector` f32[spec.size] and `gradient` f32[spec.trained] are torch tensors; `array` is `vector` as NumPy.
    Without `graded` gradients are where torch puts them, and `gradient` stands in as f32[1].
    All of it lies on `device`; on another than the CPU `array` is empty.
    What does not travel (integer buffers such as BatchNorm's count of batches) begins anew for each client.
    """

    def __init__(self, module: nn.Module, graded: bool = True, device: torch.device = CPU) -> None:
        module.to(device)
        listed = list(named_floats(module))
        self.module = module
        self.spec = ParamSpec.of((name, tuple(tensor.shape), kind) for name, tensor, kind in listed)
        self.vector = torch.from_numpy(blank(self.spec.size)).to(device)
        self.gradient = torch.zeros(self.spec.trained if graded else 1, device=device)
        self.array: Vector = self.vector.numpy() if device == CPU else np.zeros(0, np.float32)
        self.norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        views, tensors = self.spec.views(self.vector), {name: tensor for name, tensor, _ in listed}
        for name, tensor in tensors.items():
            views[name].copy_(tensor.detach())
            tensor.data = views[name]
        for entry in self.spec.entries:
            if graded and entry.kind != "statistic":
                part = self.gradient[entry.offset : entry.offset + entry.size]
                tensors[entry.name].grad = part.view(entry.shape)
        buffers = list(module.named_buffers())
        self._places = [(*_place(module, name), buffer) for name, buffer in buffers]
        self._passing = [(buffer, buffer.clone()) for name, buffer in buffers if name not in tensors]

    def load(self, sent: Vector | Tensor) -> None:
        """Sets the module to the model `sent`, f32[size], and forgets all else of the last client.

        It is a tensor there where the module lies on another device than the CPU.
        """
        if isinstance(sent, Tensor):
            self.vector.copy_(sent)
        else:
            np.copyto(self.array, sent)
        for buffer, initial in self._passing:
            buffer.copy_(initial)
        for owner, leaf, buffer in self._places:
            owner._buffers[leaf] = buffer

    def collect(self) -> None:
        """Brings buffers that the module replaced, rather than wrote to, back into the vector."""
        for owner, leaf, buffer in self._places:
            now = owner._buffers[leaf]
            if now is not None and now is not buffer:
                buffer.copy_(now.detach())


def _check(name: str, module: nn.Module) -> None:
    kinds = set()
    for entry, tensor, kind in named_floats(module):
        kinds.add(kind)
        if tensor.dtype != torch.float32:
            found = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"model {name} has {entry} in {found}, but must be float32: call .float() on it")
    if not kinds - {"statistic"}:
        raise UserError(f"model {name} has no parameters to train, but must have at least one")

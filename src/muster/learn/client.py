"""A user's own local training, in the shape that federated-learning people know.

    class MyClient(muster.Client):
        def train(self, data, model, conf):
            optimizer = torch.optim.Adam(model.parameters(), lr=conf.lr)
            for index in conf.work.batches(len(data), self.rng):
                optimizer.zero_grad()
                cross_entropy(model(data.x[index]), data.y[index]).backward()
                optimizer.step()
            self.state["visits"] = self.state.get("visits", 0) + 1
            return model

Algorithms stay as they are: select, pace, combine and server know nothing of what a client does inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Array, Local, Vectors
from muster.core.errors import FieldError, UserError, nearest
from muster.core.params import ParamSpec, Vector
from muster.core.part import resolve
from muster.core.work import Work
from muster.models.own import Settings, frozen_settings

from .learner import Trained


@dataclass(frozen=True)
class ClientData:
    """All examples of one client, as the model reads them: torch tensors, or NumPy arrays."""

    x: Any
    """Inputs [N, ...]."""
    y: Any
    """Targets i64[N]."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class ArrayModel:
    """The model that a client gets where the backend is numpy: named arrays, to be changed in place."""

    parameters: dict[str, npt.NDArray[np.float32]]


class Client:
    """Inherit, write `train`, and name the class in the job file. It is built anew for every task."""

    state: dict[str, Any]
    """What lasts from task to task: numbers, strings, booleans, None and arrays, by name. It is kept
    only if the server accepts the update. What `__init__` puts here is the state of the first task."""
    rng: np.random.Generator
    """This task's randomness, there from `train` on. Torch is seeded from it as well."""

    def train(self, data: Any, model: Any, conf: Any) -> Any:
        """Trains one client.

        Args:
            data: The client's examples: `data.x` [N, ...], `data.y` [N], `len(data)`.
            model: The model that was sent; a torch module, or with numpy an object whose `parameters`
                are named arrays. It is the client's own: change it as you like.
            conf: `epochs`, `steps`, `batch_size`, `work` (whose `batches` gives shuffled indices), and
                the job's own settings, such as `conf.lr`.

        Returns:
            The trained model; or a delta = trained - received, as one flat vector (all parameters
            in a row, in the model's order) or as named arrays (buffers left out stay). Or a pair of
            that and metrics, of which `loss` (mean per example, as trained) and `loss_sq_mean` are
            reported. Without `loss`, that of the model received is measured.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method train(self, data, model, conf)")


def check_client(cls: type[Client]) -> None:
    """Refuses a class that no task could build or train with, before a run begins.

    Raises:
        UserError: It has no `train`, or `train` or `__init__` want other arguments than they get; the text
            reads after the class's name.
    """
    if cls.train is Client.train:
        raise UserError("lacks train(self, data, model, conf); write it")
    for method, gets, form in (
        (cls.train, 4, "train{}, but must be callable as train(self, data, model, conf)"),
        (cls.__init__, 1, "__init__{}, but is built without arguments: settings come in conf"),
    ):
        try:
            signature = inspect.signature(method)
            signature.bind(*(None,) * gets)
        except TypeError:
            raise UserError(f"has {form.format(signature)}") from None


@dataclass(frozen=True)
class OwnClient(Local):
    """Local training by a user's `muster.Client`."""

    ref: str
    """Where the class is: `file.py:MyClient` or `package.module:MyClient`."""
    settings: Mapping[str, Any] | Settings = ()
    """What `train` finds in `conf` beside the job's `train` section, e.g. `lr`."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settings = frozen_settings("local", self.settings)
        taken = {"work", *(field.name for field in fields(Work))}
        for name, _ in settings:
            if name in taken:
                allowed = "another name: this one is set by the train section"
                raise FieldError("local", "settings", name, allowed)
        object.__setattr__(self, "settings", settings)

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """Not used: the user's `train` is the whole local training."""
        raise TypeError("an own client trains as a whole, not by single steps")


@dataclass(frozen=True)
class Outcome:
    """What a user's `train` returned, taken apart. `owner` is the class's name for messages."""

    owner: str
    result: Any
    metrics: Mapping[str, float]
    kept: Mapping[str, Any]
    num_steps: int

    def trained(self, measure_loss: Callable[[], float]) -> Trained:
        """The report; `measure_loss` is asked where the user gave no loss."""
        loss = self.metrics["loss"] if "loss" in self.metrics else measure_loss()
        return Trained(self.num_steps, loss, self.metrics.get("loss_sq_mean", loss * loss), self.kept)

    def write_delta(
        self,
        spec: ParamSpec,
        sent: Vector,
        given: Mapping[str, npt.ArrayLike],
        named: Callable[[object], Mapping[str, npt.ArrayLike] | None],
        delta: Vector,
    ) -> None:
        """Writes `trained - sent` into `delta`, f32[size].

        Args:
            spec: The layout.
            sent: The model as it was sent, f32[size].
            given: The arrays of the model that the client was given.
            named: The arrays of a model, None of anything else.
            delta: The buffer.

        Raises:
            UserError: The client returned something else than a model or a delta of the right shape.
        """
        arrays = named(self.result)
        try:
            if arrays is not None:
                np.subtract(spec.pack(arrays), sent, out=delta)
            elif isinstance(self.result, Mapping):
                delta[:] = spec.pack(self._delta_arrays(spec, given))
            else:
                delta[:] = self._flat_delta(spec)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.owner}.train returned a wrong model or delta: {error}") from error

    def _delta_arrays(self, spec: ParamSpec, given: Mapping[str, npt.ArrayLike]) -> dict[str, npt.ArrayLike]:
        names = [entry.name for entry in spec.entries]
        buffers = [entry for entry in spec.entries if entry.kind == "statistic"]
        arrays: dict[str, npt.ArrayLike] = {entry.name: np.zeros(entry.shape) for entry in buffers}
        for name, value in self.result.items():
            if name not in names:
                raise UserError(
                    f"{self.owner}.train returned the array {name!r}, which the model does not have"
                    f"{nearest(str(name), names)}; it has {', '.join(names)}"
                )
            arrays[name] = _numpy(value)
            if np.may_share_memory(np.asarray(arrays[name]), np.asarray(given[name])):
                raise UserError(
                    f"{self.owner}.train returned the model's own arrays (its state_dict?) where named "
                    "arrays are a delta = trained - received; return the model itself"
                )
        return arrays

    def _flat_delta(self, spec: ParamSpec) -> npt.NDArray[Any]:
        vector = _numpy(self.result)
        if vector.dtype.kind not in "fiu":
            raise UserError(
                f"{self.owner}.train returned {type(self.result).__name__}, but must return the trained "
                "model, a delta (one flat vector or named arrays), or a pair of one of them and metrics"
            )
        if vector.shape == (spec.size,):
            return vector
        if vector.shape != (spec.num_parameters,):
            raise UserError(
                f"{self.owner}.train returned a delta of shape {list(vector.shape)}, but its shape must be "
                f"[{spec.num_parameters}]"
            )
        padded, start = spec.zeros(), 0  # the parameters in a row, as users and torch flatten them
        for entry in spec.entries:
            if entry.kind != "statistic":
                padded[entry.offset : entry.offset + entry.size] = vector[start : start + entry.size]
                start += entry.size
        return padded


def run_client(
    local: OwnClient,
    work: Work,
    data: ClientData,
    model: Any,
    rng: np.random.Generator,
    kept: Mapping[str, Any] | None,
) -> Outcome:
    """Builds the user's client, gives it its lasting state, and lets it train.

    Raises:
        UserError: The class is missing or no `Client`; its metrics are no numbers, or its state cannot
            be kept. What the user's own code raises goes through.
    """
    cls = resolve(local.ref)
    if not (isinstance(cls, type) and issubclass(cls, Client)):
        raise UserError(f"{local.ref} must be a class that inherits from muster.Client, found {cls!r}")
    client = cls()
    client.rng = rng
    client.state = {**getattr(client, "state", {}), **{k: _own(v) for k, v in (kept or {}).items()}}
    conf = SimpleNamespace(**asdict(work), work=work, **dict(local.settings))
    returned = client.train(data, model, conf)
    result, metrics = returned, {}
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping):
        result, metrics = returned[0], _metrics(cls.__name__, returned[1])
    num_steps = int(work.num_steps(np.asarray([len(data)]))[0])
    return Outcome(cls.__name__, result, metrics, _kept(cls.__name__, client.state), num_steps)


def _metrics(owner: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{owner}.train returned metrics that are no numbers: {error}") from error


def _kept(owner: str, state: Any) -> dict[str, Any]:
    """The state as the client store takes it: JSON scalars and arrays of its own."""
    if not isinstance(state, Mapping):
        raise UserError(f"{owner}.state is {type(state).__name__}, but must stay a dict")
    kept = {}
    for name, value in state.items():
        plain = _own(value)
        array = isinstance(plain, np.ndarray) and plain.dtype.kind in "fiub"
        scalar = plain is None or isinstance(plain, (bool, int, float, str))
        if not isinstance(name, str) or not (array or scalar):
            raise UserError(
                f"{owner}.state[{name!r}] is {type(value).__name__}, but the state keeps numbers, strings, "
                "booleans, None and arrays of numbers, by names that are strings"
            )
        kept[name] = plain
    return kept


def _own(value: Any) -> Any:
    """A copy of an array or tensor as a NumPy array; a NumPy number as Python's; others as they are."""
    if isinstance(value, np.generic):
        return value.item()
    return np.array(_numpy(value)) if isinstance(value, np.ndarray) or hasattr(value, "detach") else value


def _numpy(value: Any) -> npt.NDArray[Any]:
    """An array or a torch tensor as a NumPy array, on the same memory where that is possible."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)

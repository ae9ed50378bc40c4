"""Muster: federated learning from one job file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.core.algorithm import Algorithm, Combine, Local, Pace, Select, Server
    from muster.core.record import Record
    from muster.data.dataset import DataSet
    from muster.deploy.own_training import client
    from muster.job import Job, load_job
    from muster.learn.client import Client
    from muster.models.model import Model
    from muster.run import simulate

    __version__: str

__all__ = [
    "Algorithm",
    "Client",
    "Combine",
    "DataSet",
    "Job",
    "Local",
    "Model",
    "Pace",
    "Record",
    "Select",
    "Server",
    "client",
    "load_job",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for: `import muster` itself loads nothing."""
    if name == "__version__":
        return import_module("importlib.metadata").version("muster-fl")
    places = {
        "Client": "muster.learn.client",
        "client": "muster.deploy.own_training",
        "DataSet": "muster.data.dataset",
        "Job": "muster.job",
        "Model": "muster.models.model",
        "Record": "muster.core.record",
        "load_job": "muster.job",
        "simulate": "muster.run",
    }
    if name not in __all__:
        raise AttributeError(f"module 'muster' has no attribute {name!r}")
    return getattr(import_module(places.get(name, "muster.core.algorithm")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

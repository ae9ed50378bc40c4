"""Which device torch computes on: what a job may ask for, and what this machine has."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from muster.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from muster.models.model import Model

DEVICES = re.compile(r"cpu|auto|cuda(:\d{1,3})?")
"""What a job may ask for."""
ALLOWED = "cpu, cuda, cuda:N for one GPU of several, or auto"


def choose_device(asked: str, backend: str, model: Model) -> str:
    """Where a model is trained: cpu, cuda or cuda:N.

    `auto` takes the GPU where torch may train the model and finds one.

    Args:
        asked: One of DEVICES.
        backend: As asked for, `auto` included.
        model: It may have no torch.

    Raises:
        UserError: A GPU is asked for, and there is none, or the backend does not use it.
    """
    if asked == "cpu":
        return asked
    able = backend in ("auto", "torch") and "torch" in model.backends
    if asked == "auto":
        return "cuda" if able and not lacking("cuda") else "cpu"
    if problem := conflict(asked, backend) or lacking(asked):
        raise UserError(problem)
    if not able:
        raise UserError(
            f"engine.device is {asked}, but model {model.part_name()} has no torch, which alone goes by it; "
            "leave engine.device out"
        )
    return asked


def conflict(device: str, backend: str) -> str:
    """Why a GPU and a backend do not go together; empty if they do."""
    if not device.startswith("cuda") or backend in ("auto", "torch"):
        return ""
    if backend == "jax":
        return (
            f"engine.device is {device}, but engine.backend is jax, which picks its device itself: the GPU "
            "where jax[cuda12] is installed, or what JAX_PLATFORMS says; leave engine.device out"
        )
    return (
        f"engine.device is {device}, but engine.backend is {backend}, which computes on the CPU; use "
        "engine.backend=torch, or leave engine.device out"
    )


def unrecorded(device: str, mode: str) -> str:
    """Why steps cannot be recorded as CUDA graphs on a device and in a mode; empty if they may be."""
    if device == "cpu":
        found = "engine.device is cpu"
    elif mode == "sequential":
        found = "clients train one after another"
    else:
        return ""
    return (
        f"engine.graphs is for cohorts on a GPU, but {found}; use engine.device=cuda with "
        "engine.mode=cohort, or engine.graphs=false"
    )


def lacking(device: str) -> str:
    """Why torch cannot compute on `device` (cuda or cuda:N) here; empty if it can."""
    if find_spec("torch") is None:
        return (
            f"engine.device is {device}, but torch is not installed: pip install 'muster-fl[torch]', or use "
            "engine.device=cpu"
        )
    import torch

    if not torch.cuda.is_available():
        built = "is built for the CPU" if torch.version.cuda is None else "finds no NVIDIA GPU"
        return (
            f"engine.device is {device}, but torch {torch.__version__} on this machine {built}; it must be "
            "cpu or auto here: use engine.device=cpu, or a torch for CUDA (pytorch.org) where there is a GPU"
        )
    number, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        return (
            f"engine.device is {device}, but this machine has {count} GPU{'s' * (count > 1)}; it must be "
            f"cpu, auto, cuda, or cuda:N with N below {count}"
        )
    return ""


def steady(device: torch.device) -> None:
    """Has a GPU's matrix library sum in the same order every time; before it is first used in this process.

    What cuBLAS, and cuDNN's recurrent layers on top of it, take for work space may else change it. The user's
    own setting is left alone. https://docs.nvidia.com/cuda/cublas/index.html#results-reproducibility
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def device_of(device: str, worker: int) -> str:
    """The device of a worker, of which there are several: with `cuda` the GPUs are dealt out in turn."""
    return f"cuda:{worker % num_gpus(device)}" if device == "cuda" else device


def num_gpus(device: str) -> int:
    """GPUs that workers on `device` are dealt; 0 on the CPU."""
    if device != "cuda":
        return int(device.startswith("cuda"))
    import torch

    return torch.cuda.device_count()


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses; without limit on any other device."""
    if device.type != "cuda":
        return sys.maxsize
    import torch

    return torch.cuda.mem_get_info(device)[0]

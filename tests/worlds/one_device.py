"""A device apart, without one: torch's `meta`, where nothing is computed, and a mode that keeps it apart."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class OneDevice(TorchDispatchMode):
    """Within it an operation on tensors of `meta` and of the CPU raises, numbers aside; copies may cross.

    A copy to the CPU gives zeros, and is noted. On `meta` itself `.item()` raises: nothing can be waited for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.back: list[int] = []
        """Numbers in each copy from the device to the CPU."""
        self.there: list[int] = []
        """The same from the CPU to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func in COPIES:
            target = tensors[0].device if func is COPIES[0] else kwargs.get("device") or tensors[0].device
            source = tensors[-1]
            if source.device.type == "meta" and torch.device(target).type == "cpu":
                self.back.append(source.numel())
                return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            if source.device.type == "cpu" and torch.device(target).type == "meta":
                self.there.append(source.numel())
        elif len({t.device.type for t in tensors if t.dim()}) > 1:
            raise RuntimeError(f"{func} mixes tensors of the CPU and of the device")
        return func(*args, **kwargs)

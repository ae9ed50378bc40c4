"""CUDA graphs, without a GPU: a step's operations as they were recorded, done again on the same memory."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Tape(TorchDispatchMode):
    """Notes each operation with the tensors that it read and wrote; `replay` does them again.

    As of a graph, what Python decides while it is recorded stays so: a number read, a branch taken, a tensor
    that lies elsewhere next time. Raises where a value is waited for, as recording would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in WAITS:
            raise RuntimeError(f"{func} cannot be recorded")
        made = func(*args, **kwargs)
        if not func.is_view:
            self.notes.append((func, args, kwargs, made))
        return made

    def replay(self):
        """Once more."""
        for func, args, kwargs, made in self.notes:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


def taped(step):
    """A recorder: tries the step out three times, as for a graph, and gives its tape."""
    for _ in range(3):
        step()
    tape = Tape()
    with tape:
        step()
    return tape.replay

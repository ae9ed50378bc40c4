"""What a forward pass of a model costs: its multiply-adds, counted."""

from __future__ import annotations

from typing import Any

from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.models.model import Model
from muster.tasks.task import Task


def forward_macs(model: Model, task: Task, facts: Facts) -> float:
    """Multiply-adds of one example's forward pass: matrix products and convolutions, biases left out.

    By the model's own formula, else `counted`.

    Raises:
        UserError: The model cannot be built or counted, or does not fit the task and the data.
    """
    known = model.macs(facts)
    return counted(model, task, facts) if known is None else known


def counted(model: Model, task: Task, facts: Facts) -> float:
    """Multiply-adds as torch's own counter finds them while one blank example goes through the network.

    The counter makes torch load its compiler, which takes a second or two: not for models with a formula.

    Raises:
        UserError: As `forward_macs`.
    """
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        raise UserError(
            f"clock.compute flops counts the multiply-adds of model {model.part_name()} with torch, which is "
            "not installed: pip install 'muster-fl[torch]', or set clock.compute to examples"
        ) from None

    from .torch_module import build

    module = build(model, task, facts, 0).eval()
    blank = torch.from_numpy(task.blank(facts, 1))
    counter = FlopCounterMode(display=False)
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.enabled
    mkldnn.enabled = False  # then recurrent layers run as matrix products, which the counter knows
    try:
        # With gradients and in its plain form attention runs as matrix products, too.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            module(blank)
    except NotImplementedError as error:  # an operation of the user's that the counter cannot run
        raise _not_counted(model, str(error)) from error
    finally:
        mkldnn.enabled = before
    if not (total := counter.get_total_flops()):
        raise _not_counted(model, "torch knows the cost of none of its operations")
    return float(total) / 2


def _not_counted(model: Model, why: str) -> UserError:
    return UserError(
        f"the multiply-adds of model {model.part_name()} cannot be counted ({why}); "
        "set clock.compute to examples"
    )

"""What a forward pass of a model costs: its multiply-adds, counted."""

from __future__ import annotations

from typing import Any

from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.models.dense import Dense
from muster.models.model import Model
from muster.tasks.task import Task


def forward_macs(model: Model, task: Task, facts: Facts) -> float:
    """Multiply-adds of one example's forward pass: matrix products and convolutions, biases left out.

    Dense models are counted by formula, others by running torch's own counter over one blank example.

    Raises:
        UserError: The model cannot be built, or does not fit the task and the data.
    """
    if isinstance(model, Dense):
        return float(sum(ins * outs for ins, outs in model.layers(facts)))
    try:
        import torch
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
        with torch.no_grad(), counter:
            module(blank)
    except NotImplementedError as error:  # an operation of the user's that the counter cannot run
        raise UserError(
            f"the multiply-adds of model {model.part_name()} cannot be counted ({error}); "
            "set clock.compute to examples"
        ) from error
    finally:
        mkldnn.enabled = before
    return float(counter.get_total_flops()) / 2

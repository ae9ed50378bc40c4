"""Your own server part: how the combined update moves the model. `muster run examples/own_server.yml`.

The other four parts (Select, Pace, Local, Combine) are written in the same way: a frozen dataclass whose
fields are its settings, and pure methods. See src/muster/core/algorithm.py for what each must answer.
"""

from dataclasses import dataclass

from array_api_compat import array_namespace

from muster import Server


@dataclass(frozen=True)
class Clipped(Server):
    """x ← x + lr · Δ · min(1, max_norm / ‖Δ‖): no round moves the model further than lr · max_norm."""

    lr: float = 1.0
    max_norm: float = 1.0

    def __post_init__(self):
        self.check_number("lr", above=0)  # a wrong value is refused with file, line and key
        self.check_number("max_norm", above=0)

    def apply(self, params, delta, opt, info):
        """`delta` is the mean of trained - received; `opt` is what the last call returned beside params."""
        xp = array_namespace(delta)
        norm = float(xp.sqrt(xp.sum(delta * delta)))
        return params + self.lr * min(1.0, self.max_norm / norm) * delta, opt

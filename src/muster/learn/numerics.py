"""What changes how training rounds, and nothing else: a run says it, job.yml keeps it, clients follow it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Gradients: TypeAlias = Literal["auto", "plain", "fused", "factored"]
"""`plain`: as one vector, for any rule; `fused`: subtracted tensor by tensor as the backward pass leaves
them; `factored`: fused, and those of wide linear layers kept as factors. `auto`: the last that can be."""
Layout: TypeAlias = Literal["auto", "channels_first", "channels_last"]
"""How images lie in memory between layers. `auto`: channels last where a model pools (`nn.MaxPool2d`)."""
Precision: TypeAlias = Literal["float32", "bfloat16", "tf32"]
"""Of the products in training; models, updates and evaluation are float32. `tf32` is of NVIDIA GPUs."""
Convolutions: TypeAlias = Literal["auto", "direct", "unfolded"]
"""Of many clients at once: `direct` as grouped convolutions; `unfolded` as one product of matrices for each
client, from the patches of its images. `auto`: unfolded on a GPU."""


@dataclass(frozen=True)
class Numerics:
    """As asked for, or, of a learner, as it is: then without `auto`."""

    gradients: Gradients = "plain"
    layout: Layout = "channels_first"
    precision: Precision = "float32"
    device: str = "cpu"
    """As torch calls it: cpu, cuda or cuda:N. Another device sums in another order."""
    convolutions: Convolutions = "direct"
    graphs: bool = False
    """Whether a cohort's step on a GPU is a recorded one, of a few numbers of clients: products of more rows
    may be summed in another order."""

    @property
    def of_torch(self) -> bool:
        """Whether only torch can do what is asked for."""
        rounded = self.gradients in ("fused", "factored") or self.precision != "float32"
        cohorts = self.convolutions == "unfolded" or self.graphs
        return rounded or self.layout == "channels_last" or self.device != "cpu" or cohorts

    def on(self, device: str) -> Numerics:
        """The same on a machine that computes on `device`; what only GPUs can do stays theirs."""
        apart = device == "cpu" and self.precision == "tf32"
        return replace(self, device=device, precision="float32" if apart else self.precision)

    def said(self) -> tuple[str, ...]:
        """What a run tells of them."""
        told = [f"gradients: {self.gradients}"]
        if self.layout != "channels_first":
            told.append(f"layout: {self.layout}")
        if self.precision != "float32":
            told.append(f"precision: {self.precision}")
        if self.convolutions != "direct":
            told.append(f"convolutions: {self.convolutions}")
        if self.graphs:
            told.append("graphs: each step is recorded, and started whole")
        if self.device != "cpu":
            told.append(f"device: {self.device}")
        return tuple(told)

"""Label flip: liars train on wrong labels and send what comes out.

V. Tolpegin, S. Truex, M. E. Gursoy, L. Liu: Data Poisoning Attacks Against Federated Learning Systems.
ESORICS 2020, arXiv:2007.08432; with the labels turned round, as M. Fang et al. have it (USENIX Security
2020, arXiv:1911.11815).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.examples import Examples, Facts

from .attack import Attack


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Class y of G becomes G - 1 - y."""

    def data(self, examples: Examples, facts: Facts, rng: np.random.Generator) -> Examples:
        """All labels turned round."""
        return Examples(examples.x, facts.num_classes - 1 - examples.y, examples.text)

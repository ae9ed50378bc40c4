"""Recurrent networks for text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.core.errors import UserError

from .model import Model

if TYPE_CHECKING:
    from torch.nn import Module

    from muster.core.examples import Facts


@dataclass(frozen=True)
class CharLSTM(Model):
    """Embedding, stacked LSTM, and a dense layer that scores the character after the window.

    The Shakespeare model of S. Caldas et al.: LEAF, 2018, arXiv:1812.01097 (after McMahan et al. 2017).
    """

    embed: int = 8
    """Dimensions of a character's embedding."""
    hidden: int = 256
    """Units of each LSTM layer."""
    layers: int = 2
    """LSTM layers."""

    def __post_init__(self) -> None:
        self.check_number("embed", at_least=1)
        self.check_number("hidden", at_least=1)
        self.check_number("layers", at_least=1)

    def macs(self, facts: Facts) -> float:
        """Four gates a layer at each character, and the scores of the last; 80 characters: 63,590,400."""
        (window,), hidden = facts.input_shape, self.hidden
        inputs = self.embed + hidden * (2 * self.layers - 1)
        return float(window * 4 * hidden * inputs + hidden * facts.num_classes)

    def torch(self, facts: Facts) -> Module:
        """Codes i64[B, window] to scores [B, vocabulary]; 80 characters: 819,920 parameters."""
        from torch import Tensor, nn

        if len(facts.input_shape) != 1:
            raise UserError(
                f"model char_lstm reads windows of text, but {facts.name} gives examples of shape "
                f"{list(facts.input_shape)}"
            )

        class Network(nn.Module):
            def __init__(self, vocabulary: int, embed: int, hidden: int, layers: int) -> None:
                super().__init__()
                self.embedding = nn.Embedding(vocabulary, embed)
                self.lstm = nn.LSTM(embed, hidden, layers, batch_first=True)
                self.dense = nn.Linear(hidden, vocabulary)

            def forward(self, codes: Tensor) -> Tensor:
                outputs, _ = self.lstm(self.embedding(codes))
                scores: Tensor = self.dense(outputs[:, -1])
                return scores

        return Network(facts.num_classes, self.embed, self.hidden, self.layers)

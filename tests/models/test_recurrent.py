import pytest
import torch

from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.models.recurrent import CharLSTM


def test_leaf_shakespeare_has_its_number_of_parameters():
    module = CharLSTM().torch(Facts("shakespeare", (80,), 80))
    # 80*8 + 4*256*(8+256+2) + 4*256*(256+256+2) + 256*80+80
    assert sum(p.numel() for p in module.parameters()) == 819_920


def test_scores_depend_on_the_whole_window():
    torch.manual_seed(0)
    module = CharLSTM(hidden=8).torch(Facts("text", (5,), 6)).eval()
    first, other = torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)
    other[0, 0] = 3
    with torch.no_grad():
        assert module(first).shape == (1, 6)
        assert not torch.equal(module(first), module(other))


def test_what_is_no_text_is_refused():
    with pytest.raises(UserError, match="char_lstm reads windows of text, but digits gives"):
        CharLSTM().torch(Facts("digits", (1, 8, 8), 10))

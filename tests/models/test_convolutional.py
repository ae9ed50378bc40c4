import pytest
import torch

from muster.core.errors import FieldError, UserError
from muster.core.examples import Facts
from muster.models.convolutional import ConvNet2, LeafCNN

FEMNIST = Facts("femnist", (1, 28, 28), 62)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_convnet2_has_the_published_number_of_parameters():
    module = ConvNet2().torch(FEMNIST)
    assert count(module) == 6_603_902
    floats = [b for b in module.buffers() if b.is_floating_point()]
    assert sum(b.numel() for b in floats) == 192  # mean and variance of 32 and of 64 channels


def test_leaf_cnn_has_the_published_number_of_parameters():
    assert count(LeafCNN().torch(FEMNIST)) == 1_690_046  # McMahan et al.'s CNN with 62 classes


@pytest.mark.parametrize("model", [LeafCNN(dense=16), ConvNet2(hidden=16)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 30, 29)])
def test_sizes_come_from_the_data(model, shape):
    module = model.torch(Facts("images", shape, 7)).eval()
    assert module(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(64,), (28, 28), (1, 2, 28)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(UserError, match="model leaf_cnn reads images"):
        LeafCNN().torch(Facts("letters", shape, 7))


def test_bad_settings_are_refused():
    with pytest.raises(FieldError, match=r"convnet2\.dropout is 1\.0"):
        ConvNet2(dropout=1.0)
    with pytest.raises(FieldError, match=r"leaf_cnn\.dense is 0"):
        LeafCNN(dense=0)

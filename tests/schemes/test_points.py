"""Points: the model inside them, and the model after them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairseq_ats.modules import PartitionedLinear
from fairseq_ats.modules.linear import OUTPUT_DIM
from fairseq_ats.optim.mask import ElementMask, LevelMask
from fairseq_ats.schemes.points import MaskedPoint, NetworkPoint
from fairseq_ats.theory.criteria import sums_of_products


@pytest.fixture
def layer() -> PartitionedLinear:
    return PartitionedLinear.from_linear(nn.Linear(3, 4), dim=OUTPUT_DIM, groups=1, small_ratio=0.5, max_level=None)


def test_a_masked_point_zeroes_what_the_mask_leaves_out(layer: PartitionedLinear) -> None:
    x = torch.randn(2, 3)
    with NetworkPoint(1).of(layer):
        core = layer(x)
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in layer.named_parameters()}
    with MaskedPoint(2, LevelMask((1,))).of(layer):
        torch.testing.assert_close(layer(x), torch.cat([core, torch.zeros(2, 2)], dim=1))
    for name, p in layer.named_parameters():
        assert (p.data_ptr(), p.tolist()) == (before[name][0], before[name][1].tolist()), name


def test_a_masked_point_zeroes_elements(layer: PartitionedLinear) -> None:
    rows = torch.tensor([[True], [False]])
    with MaskedPoint(2, ElementMask({layer.core_weight: rows})).of(layer):
        assert layer.core_weight[0].all()
        assert not layer.core_weight[1].any()
        assert layer.extension_weight.all()


def test_a_point_ends_with_an_error(layer: PartitionedLinear) -> None:
    before = layer.extension_weight.tolist()
    with pytest.raises(RuntimeError), MaskedPoint(1, LevelMask((1,))).of(layer):
        layer(torch.randn(2, 5))
    assert (layer.level, layer.extension_weight.tolist()) == (2, before)


def test_sums_over_selected_elements() -> None:
    """p selects the second row: ∇f(x) = (1, 2 | 3, 4), ∇f(x̃) = (9, 9 | 5, 6)."""
    gradient, perturbed = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[9.0, 9.0], [5.0, 6.0]])
    sums = sums_of_products(gradient, perturbed, torch.tensor([[False], [True]]))
    assert sums.tolist() == [30.0, 25.0, 61.0, 39.0]

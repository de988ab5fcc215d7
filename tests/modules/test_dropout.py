"""Dropout on a CPU: the right share of elements, in every place, with expectations kept."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import FairseqDropout
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.modules import FastDropout


def dropout(p: float) -> FastDropout:
    return FastDropout.convert_(FairseqDropout(p))


@pytest.mark.parametrize("p", [0.003, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_share_scale_and_gradient(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(400, 501, dtype=dtype, requires_grad=True)
    y = dropout(p)(x)
    rounded = round(p * 2**16) / 2**16
    assert abs(rounded - p) < 1e-5
    kept = torch.tensor(1 / (1 - rounded), dtype=torch.float64).to(dtype)
    assert set(y.unique().tolist()) == {0.0, kept.item()}
    # Four elements share one draw: each of the four places separately, to five standard deviations.
    for place in range(4):
        zeros = (y.flatten()[place::4] == 0).double()
        deviation = (rounded * (1 - rounded) / zeros.numel()) ** 0.5
        assert abs(zeros.mean().item() - rounded) < 5 * deviation
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # x is one


def test_neighbours_are_independent() -> None:
    """Of two neighbours, both are dropped as often as p² says; for each of the four places of the first."""
    zeros = (dropout(0.3)(torch.ones(400_000)) == 0).double()
    both = zeros[:-1] * zeros[1:]
    for place in range(4):
        pairs = both[place::4]
        assert abs(pairs.mean().item() - 0.09) < 5 * (0.09 * 0.91 / pairs.numel()) ** 0.5


@given(shape=st.lists(st.integers(0, 7), max_size=3), p=st.sampled_from([0.0, 0.25, 1.0]))
def test_any_shape(shape: list[int], p: float) -> None:
    """Also those whose number of elements four does not divide, and probabilities that leave no choice."""
    x = torch.full(shape, 3.0)
    y = dropout(p)(x)
    assert y.shape == x.shape
    allowed = {0.0: {3.0}, 0.25: {0.0, 4.0}, 1.0: {0.0}}[p]
    assert set(y.flatten().tolist()) <= allowed


def test_follows_mode_and_seed() -> None:
    module, x = dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first = module(x)
    torch.manual_seed(3)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    module.eval()
    assert module(x) is x
    module.apply_during_inference = True
    assert (module(x) == 0).any()

"""Points: the model inside them, and the model after them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import utils
from torch import nn

from fairseq_ats.architectures.transformer_parts import parts_of
from fairseq_ats.modules import PartitionedLinear
from fairseq_ats.modules.linear import OUTPUT_DIM
from fairseq_ats.optim.mask import ElementMask, LevelMask
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.dropout import neuron_point
from fairseq_ats.schemes.points import MaskedPoint, MovedPoint, NetworkPoint
from fairseq_ats.theory.criteria import sums_of_products
from tests.support.plain_gradients import gradients_at, softmax_in_float64

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --dropout 0 --small-ratio".split()


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


def test_a_moved_point_is_exact(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """v + s ⊙ (x − v) + d with random s, v, d for most parameters: over two batches."""
    softmax_in_float64(monkeypatch)
    built = build(*SMALL_WIDTH, "0.25")
    model = built.model.double()
    generator = torch.Generator().manual_seed(4)

    def drawn(offset: float) -> dict[str, torch.Tensor]:
        named = list(model.named_parameters())
        return {n: torch.rand(p.shape, generator=generator).double() + offset for n, p in named if len(n) % 5}

    s, v, d = drawn(0.2), drawn(-0.5), drawn(-0.5)
    own = dict(model.named_parameters())
    point = MovedPoint(2, *({own[name]: value for name, value in one.items()} for one in (s, v, d)))
    state = utils.get_rng_state()
    with point.of(model):
        for _ in range(2):
            built.criterion(model, batch)[0].backward()

    def value(name: str, x: torch.Tensor) -> torch.Tensor:
        return v[name] + s[name] * (x - v[name]) + d[name] if name in s else x

    expected = gradients_at(model, built.criterion, [batch, batch], value)
    for name, p in own.items():
        wanted = expected[name] * s.get(name, 1.0)  # the chain rule
        torch.testing.assert_close(p.grad, wanted, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        assert not p._backward_hooks
    assert torch.equal(utils.get_rng_state()["torch_rng_state"], state["torch_rng_state"])


def test_a_moved_point_ends_with_an_error(layer: PartitionedLinear) -> None:
    before = {p: (p.data_ptr(), p.tolist(), p.requires_grad) for p in layer.parameters()}
    point = MovedPoint(2, {p: torch.zeros_like(p) for p in before})
    with pytest.raises(RuntimeError), point.of(layer):
        layer(torch.randn(2, 5))
    assert before == {p: (p.data_ptr(), p.tolist(), p.requires_grad) for p in layer.parameters()}
    assert not any(p._backward_hooks for p in before)


@pytest.mark.parametrize(("activation", "ratio"), [("relu", "0.25,0.5"), ("gelu", "0.25"), ("tanh", "0.25")])
def test_units_are_the_zeroed_network(
    build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, activation: str, ratio: str
) -> None:
    """Output and gradients; and no number of a neuron that is left out is read."""
    softmax_in_float64(monkeypatch)
    built = build(*SMALL_WIDTH, ratio, "--activation-fn", activation)
    model = built.model.double()
    parts = parts_of(model)
    draws = Draws(3)
    kept = [(g, draws.kept(0.4, g.size, 0, g.name)) for g in (*parts.hidden, *parts.keys)]
    point, scales = neuron_point(ratio.count(",") + 2, kept, factor=1.5)
    found = []
    for one in (point.reference, point):
        model.zero_grad()
        with one.of(model):
            loss = built.criterion(model, batch)[0]
            loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    assert all(layer.units is None and layer.unit_scale == 1.0 for layer in point.units)
    for p, scale in scales.items():
        p.data[(scale == 0).expand(p.shape)] = torch.nan
    with point.of(model):
        assert torch.equal(built.criterion(model, batch)[0], found[1][0])

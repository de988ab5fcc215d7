"""The partitioned linear layers against a plain reference in float64."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fairseq_ats import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.modules.levels import use_level
from fairseq_ats.partition.partition import core_size

ratios = st.floats(0.01, 0.99)
sizes = st.integers(1, 24)


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(in_features, out_features, bias=bias).double()


def core_rows(size: int, ratio: float, groups: int) -> list[int]:
    """Which rows of the full layer the core keeps, written out by hand: the first ones of each group."""
    per_group = size // groups
    kept = max(1, round(ratio * per_group))
    return [group * per_group + i for group in range(groups) for i in range(kept)]


@given(in_features=sizes, per_group=sizes, groups=st.integers(1, 4), ratio=ratios, bias=st.booleans())
def test_narrow_output(in_features: int, per_group: int, groups: int, ratio: float, bias: bool) -> None:
    stock = linear(in_features, per_group * groups, bias)
    layer = PartitionedLinear.from_linear(stock, ratio, dim=0, groups=groups)
    x = torch.randn(3, 2, in_features, dtype=torch.float64)
    rows = core_rows(per_group * groups, ratio, groups)

    torch.testing.assert_close(layer(x), stock(x), rtol=0, atol=0)
    with use_level(layer, 1):
        expected = F.linear(x, stock.weight[rows], stock.bias[rows] if bias else None)
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@given(in_features=sizes, out_features=sizes, ratio=ratios, bias=st.booleans())
def test_narrow_input(in_features: int, out_features: int, ratio: float, bias: bool) -> None:
    stock = linear(in_features, out_features, bias)
    layer = PartitionedLinear.from_linear(stock, ratio, dim=1)
    x = torch.randn(5, in_features, dtype=torch.float64)
    columns = core_rows(in_features, ratio, groups=1)

    torch.testing.assert_close(layer(x), stock(x), rtol=0, atol=0)
    with use_level(layer, 1):
        expected = F.linear(x[:, columns], stock.weight[:, columns], stock.bias)
        torch.testing.assert_close(layer(x[:, columns]), expected, rtol=1e-12, atol=1e-12)


@given(in_features=sizes, out_features=sizes, ratio=ratios, rows=st.integers(1, 40), bias=st.booleans())
def test_low_rank(in_features: int, out_features: int, ratio: float, rows: int, bias: bool) -> None:
    """Both ways of computing the super-network (folded and apart) are inside the range of ``rows``."""
    layer = PartitionedRankLinear.from_linear(linear(in_features, out_features, bias), ratio).double()
    u, v, w = layer.core_u, layer.core_v, layer.extension_weight
    assert u.shape == (max(1, round(ratio * min(in_features, out_features))), in_features)
    assert v.shape == (out_features, u.shape[0])
    x = torch.randn(rows, in_features, dtype=torch.float64)
    b = layer.core_bias if bias else 0.0

    torch.testing.assert_close(layer(x), x @ (v @ u).T + x @ w.T + b, rtol=1e-10, atol=1e-10)
    with use_level(layer, 1):
        torch.testing.assert_close(layer(x), x @ u.T @ v.T + b, rtol=1e-10, atol=1e-10)


def test_two_by_three_by_hand() -> None:
    stock = nn.Linear(3, 2)
    stock.weight.data = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    stock.bias.data = torch.tensor([10.0, 20.0])
    x = torch.tensor([1.0, 1.0, 2.0])

    narrow = PartitionedLinear.from_linear(stock, 0.5, dim=0)
    assert narrow(x).tolist() == [19.0, 41.0]
    with use_level(narrow, 1):
        assert narrow(x).tolist() == [19.0]

    reading = PartitionedLinear.from_linear(stock, 0.34, dim=1)
    with use_level(reading, 1):
        assert reading(x[:1]).tolist() == [11.0, 24.0]

    u, v = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[2.0], [1.0]])
    low_rank = PartitionedRankLinear(u, v, stock.weight, stock.bias)
    assert low_rank(x).tolist() == [19.0 + 6.0, 41.0 + 3.0]
    with use_level(low_rank, 1):
        assert low_rank(x).tolist() == [16.0, 23.0]


def layers_of_each_kind() -> dict[str, tuple[nn.Module, int]]:
    """Layer and the width of the core's input."""
    return {
        "narrow output": (PartitionedLinear.from_linear(linear(6, 8), 0.25, dim=0), 6),
        "narrow heads": (PartitionedLinear.from_linear(linear(6, 8), 0.5, dim=0, groups=2), 6),
        "narrow input": (PartitionedLinear.from_linear(linear(6, 8), 0.5, dim=1), 3),
        "low rank": (PartitionedRankLinear.from_linear(linear(6, 8), 0.5).double(), 6),
    }


@pytest.fixture(params=list(layers_of_each_kind()))
def any_layer(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    return layers_of_each_kind()[request.param]


def test_nan_in_extension_reaches_super_network_only(any_layer: tuple[nn.Module, int]) -> None:
    layer, core_width = any_layer
    core_x = torch.randn(4, core_width, dtype=torch.float64)
    with use_level(layer, 1):
        before = layer(core_x)
    for name, parameter in layer.named_parameters():
        if name.startswith("extension_"):
            parameter.data.fill_(float("nan"))
    with use_level(layer, 1):
        assert torch.equal(layer(core_x), before)
    assert layer(torch.randn(4, 6, dtype=torch.float64)).isnan().any()


def test_gradients(any_layer: tuple[nn.Module, int]) -> None:
    layer, core_width = any_layer
    parameters = list(layer.parameters())
    for level, width in ((2, 6), (1, core_width)):
        for rows in (2, 9):  # apart, and folded
            x = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)

            def run(x: torch.Tensor, *_: torch.Tensor, level: int = level) -> torch.Tensor:
                with use_level(layer, level):
                    return layer(x)

            assert torch.autograd.gradcheck(run, (x, *parameters))


def test_core_update_gives_extension_no_gradient(any_layer: tuple[nn.Module, int]) -> None:
    layer, core_width = any_layer
    with use_level(layer, 1):
        layer(torch.randn(2, core_width, dtype=torch.float64)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad is None) == name.startswith("extension_"), name


@settings(max_examples=50)
@given(in_features=sizes, out_features=sizes, ratio=ratios)
def test_starts_as_the_stock_layer(in_features: int, out_features: int, ratio: float) -> None:
    stock = linear(in_features, out_features)
    for layer in (
        PartitionedLinear.from_linear(stock, ratio, dim=0),
        PartitionedLinear.from_linear(stock, ratio, dim=1),
        PartitionedRankLinear.from_linear(stock, ratio).double(),
    ):
        torch.testing.assert_close(layer.weight, stock.weight, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer.bias, stock.bias)


@given(size=st.integers(1, 4096), ratio=ratios)
def test_core_size(size: int, ratio: float) -> None:
    assert 1 <= core_size(size, ratio) <= size
    assert abs(core_size(size, ratio) - ratio * size) <= max(0.5, 1 - ratio * size)


def test_core_alone_has_no_extension(any_layer: tuple[nn.Module, int]) -> None:
    full, _ = any_layer
    stock = linear(6, 8)
    for layer in (
        PartitionedLinear.from_linear(stock, 0.5, dim=0, max_level=1),
        PartitionedRankLinear.from_linear(stock, 0.5, max_level=1),
    ):
        assert layer.level == 1
        assert not [n for n, _ in layer.named_parameters() if n.startswith("extension_")]
        with pytest.raises(ValueError, match="level is 2; this model holds level"):
            layer.check_level(2)
    assert [n for n, _ in full.named_parameters() if n.startswith("extension_")]


def test_backward_uses_the_forward_level() -> None:
    layer = PartitionedLinear.from_linear(linear(4, 6), 0.5, dim=0)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    with use_level(layer, 2):
        y = layer(x)
    with use_level(layer, 1):
        y.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(5, 4), rtol=1e-12, atol=1e-12)


def test_frozen_parts_and_inputs_get_no_gradient() -> None:
    layer = PartitionedRankLinear.from_linear(linear(4, 6), 0.5).double()
    layer.extension_weight.requires_grad_(False)
    layer(torch.randn(9, 4, dtype=torch.float64)).sum().backward()
    assert layer.extension_weight.grad is None
    assert layer.core_u.grad.abs().sum() > 0
    layer.requires_grad_(False)
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["low rank", "small width"])
def test_the_dense_weight_is_not_kept(kind: str) -> None:
    """Between forward and backward, autograd holds the input and parameters, and nothing of the weight's size."""
    stock = nn.Linear(64, 48)
    rank = kind == "low rank"
    layer = (
        PartitionedRankLinear.from_linear(stock, 0.25) if rank else PartitionedLinear.from_linear(stock, 0.25, dim=0)
    )
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        layer(torch.randn(100, 64, requires_grad=True))
    addresses = {p.data_ptr() for p in layer.parameters()}
    assert sorted(t.numel() for t in kept if t.data_ptr() not in addresses) == [100 * 64]


def test_autocast_rounds_the_sum_and_not_its_parts() -> None:
    """W + VU is added up in float32: a W that nearly cancels VU leaves the difference, which bfloat16 would lose."""
    stock = nn.Linear(8, 8, bias=False)
    layer = PartitionedRankLinear.from_linear(stock, 0.25)
    with torch.no_grad():
        layer.extension_weight.copy_(1e-3 * stock.weight - layer.core_v @ layer.core_u)
    x = torch.randn(100, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), 1e-3 * stock(x), rtol=0.05, atol=2e-5)
    y.float().sum().backward()
    assert layer.core_u.grad.dtype == torch.float32


def test_inputs_are_let_go_during_backward() -> None:
    """As PyTorch's own layers do: what a layer kept is free once its gradients are there."""
    layers = [PartitionedLinear.from_linear(linear(8, 8), 0.5, dim=0) for _ in range(4)]
    x, inputs = torch.randn(9, 8, dtype=torch.float64, requires_grad=True), []
    for layer in layers:
        x = layer(x) * 2
        inputs.append(weakref.ref(x))
    loss = x.sum()
    del x
    loss.backward()
    assert [reference() for reference in inputs] == [None] * 4


def test_no_rows(any_layer: tuple[nn.Module, int]) -> None:
    layer, core_width = any_layer
    assert layer(torch.ones(0, 3, 6, dtype=torch.float64)).shape == (0, 3, 8)
    with use_level(layer, 1):
        assert layer(torch.ones(0, core_width, dtype=torch.float64)).shape[0] == 0


def test_autocast_leaves_float64_alone() -> None:
    layer = PartitionedLinear.from_linear(linear(4, 4), 0.5, dim=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(3, 4, dtype=torch.float64)).dtype == torch.float64

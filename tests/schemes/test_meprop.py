"""``--scheme meprop``: the largest elements of the whole gradient, and the published backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.schemes.draws import largest
from tests.support.plain_gradients import gradients_at, softmax_in_float64
from tests.support.plain_meprop import PlainMeProp
from tests.support.scheme_updates import check_updates

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --dropout 0".split()


def arguments(kind: str, ratio: float) -> list[str]:
    return ["--scheme", "meprop", "--scheme-args", f'{{"kind": "{kind}", "ratio": {ratio}}}']


def test_exact_updates_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The elements are found by sorting; each runs Adam on the updates that select it; the rest stays."""
    softmax_in_float64(monkeypatch)
    built = build(*SMALL_WIDTH, *arguments("exact", 0.1), "--weight-decay", "0.1")
    model = built.model.double()

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = gradients_at(model, built.criterion, [batch], lambda name, _: values[name])
        gradients = {name: g / batch["ntokens"] for name, g in found.items()}
        sizes = torch.cat([g.abs().flatten() for g in gradients.values()])
        threshold = sizes.sort(descending=True).values[math.ceil(0.1 * len(sizes)) - 1]
        selected = {name: g.abs() >= threshold for name, g in gradients.items()}
        assert sum(int(s.sum()) for s in selected.values()) == math.ceil(0.1 * len(sizes))
        return gradients, selected

    check_updates(built, [batch], by_hand)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.data())
def test_the_bound_on_c_norm(values: list[float], data: st.DataObject) -> None:
    """c_norm ≤ √(d/k), which equal elements reach; the paper prints d/k."""
    gradient, k = torch.tensor(values).double(), data.draw(st.integers(1, len(values)))
    kept = gradient[largest({0: gradient}, k)[0]]
    assert gradient.norm() <= math.sqrt(len(values) / k) * kept.norm() * (1 + 1e-12)
    equal = torch.ones(len(values)).double()
    bound = math.sqrt(len(values) / k) * float(equal[largest({0: equal}, k)[0]].norm())
    assert float(equal.norm()) == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("kind", ["layer", "unified"])
@pytest.mark.parametrize("module_name", ["PartitionedLinear", "PartitionedRankLinear"])
def test_the_published_backward_pass(
    build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, kind: str, module_name: str
) -> None:
    """Every linear layer but the output, split or not, against a plain reference; 1e-10 relative."""
    softmax_in_float64(monkeypatch)
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", "--dropout", "0"]
    built = build(*options, *arguments(kind, 0.3))
    model, scheme = built.model.double(), built.task.scheme
    with scheme.update(0).points[0].of(model):
        built.criterion(model, batch)[0].backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    layers = list(scheme.parts.linears)
    assert len(layers) == 2 * 6 + 2 * 10
    assert model.decoder.output_projection not in layers
    assert not any("forward" in vars(layer) for layer in layers)
    model.zero_grad()
    for m in layers:
        monkeypatch.setattr(m, "forward", lambda x, m=m: PlainMeProp.apply(x, m.weight, m.bias, kind, 0.3))
    built.criterion(model, batch)[0].backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_unified_has_a_shorter_backward_pass(build: Build, batch: Any) -> None:
    """Two of three products of each linear layer have the share of the columns: counted by PyTorch."""
    built = build(*SMALL_WIDTH, *arguments("unified", 0.25))
    scheme, counts = built.task.scheme, {}
    linear = 0
    for m in scheme.parts.linears:
        assert isinstance(m, nn.Module)
        m.register_forward_hook(lambda m, x, y: calls.append(2 * m.weight.numel() * x[0][..., 0].numel()))
    for point in (scheme.whole, scheme.update(0).points[0]):
        calls: list[int] = []
        with point.of(built.model):
            loss = built.criterion(built.model, batch)[0]
            linear = sum(calls)
            with FlopCounterMode(display=False) as counter:
                loss.backward()
        counts[point] = counter.get_total_flops()
    whole, shorter = counts.values()
    assert whole - shorter == pytest.approx(2 * linear * 0.75, rel=0.02)

"""The fused loss is fairseq's label-smoothed loss: value, gradients, metrics; and it holds no logits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq_ats.modules.fused_loss import CHUNK, correct_predictions, fused_loss
from tests.fixtures import TRAINING

Build = Callable[..., SimpleNamespace]

STOCK = "label_smoothed_cross_entropy"
FUSED = f"fused_{STOCK}"
ACCURATE = ("--report-accuracy", "--ignore-prefix-size", "1")


def plain_loss(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The equation, one position after the other."""
    smooth = epsilon / (len(w) - 1)
    loss = nll = h.new_zeros(())
    for position, target in zip(h, y, strict=True):
        logits = w @ position
        log_p = logits - logits.exp().sum().log()
        nll = nll - log_p[target]
        loss = loss - (1 - epsilon - smooth) * log_p[target] - smooth * log_p.sum()
    return loss, nll


def case(positions: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    h = torch.randn(positions, 6, dtype=dtype, requires_grad=True)
    w = torch.randn(11, 6, dtype=dtype, requires_grad=True)
    return h, w, torch.randint(11, (positions,))


@pytest.mark.parametrize("positions", [1, CHUNK, CHUNK + 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_the_equation(positions: int, epsilon: float) -> None:
    h, w, y = case(positions)
    expected = plain_loss(h, w, y, epsilon)
    of_h, of_w = torch.autograd.grad(3.0 * expected[0], (h, w))
    loss, nll = fused_loss(h, w, y, epsilon)
    (3.0 * loss).backward()
    torch.testing.assert_close((loss, nll), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close((h.grad, w.grad), (of_h, of_w), rtol=1e-12, atol=1e-12)
    assert correct_predictions(h, w, y) == (h @ w.t()).argmax(1).eq(y).sum()


def test_bfloat16_products_under_autocast() -> None:
    h, w, y = case(40, torch.float32)
    of_h, of_w = torch.autograd.grad(plain_loss(h, w, y, 0.1)[0], (h, w))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = fused_loss(h, w, y, 0.1)
    loss.backward()
    assert loss.dtype == w.grad.dtype == torch.float32
    error = max((h.grad - of_h).abs().max(), (w.grad - of_w).abs().max() / 10)
    assert 1e-5 < error < 0.03  # rounded to 8 bits, and no further off


def test_nothing_to_count_is_no_loss() -> None:
    h, w, y = case(0)
    loss, nll = fused_loss(h, w, y, 0.1)
    loss.backward()
    assert loss == nll == 0
    assert not w.grad.any()
    assert correct_predictions(h, w, y) == 0


def test_a_frozen_weight_gets_no_gradient() -> None:
    h, w, y = case(5)
    w.requires_grad_(False)
    fused_loss(h, w, y, 0.1)[0].backward()
    assert w.grad is None
    assert h.grad.abs().sum() > 0
    assert not fused_loss(h.detach(), w, y, 0.1)[0].requires_grad


def test_logits_exist_for_one_chunk_at_a_time() -> None:
    positions, vocabulary, dimension = 20 * CHUNK, 500, 4
    h = torch.randn(positions, dimension, requires_grad=True)
    w = torch.randn(vocabulary, dimension, requires_grad=True)
    y = torch.randint(vocabulary, (positions,))
    largest = []
    with _Sizes(largest):
        fused_loss(h, w, y, 0.1)[0].backward()
    assert max(largest) <= CHUNK * vocabulary


class _Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """Record the number of elements of each tensor that an operation makes."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.sizes += [one.numel() for one in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(one)]
        return result


@pytest.mark.parametrize("options", [(), ACCURATE])
@pytest.mark.parametrize("level", [1, 2])
def test_a_training_step_is_that_of_fairseqs_loss(build: Build, batch: Any, options: tuple, level: int) -> None:
    # In float64 but for fairseq's softmax, which is in float32 (fairseq/utils.py, log_softmax).
    results = []
    for criterion in (STOCK, FUSED):
        training = [criterion if option == STOCK else option for option in TRAINING]
        built = build("--alternate", "--dropout", "0", *options, training=training)
        model = built.model.double().train()
        for module in model.modules():
            if hasattr(module, "level"):
                module.level = level
        loss, sample_size, logged = built.criterion(model, batch)
        loss.backward()
        results.append((sample_size, logged, {n: p.grad for n, p in model.named_parameters()}))
    (stock_size, stock_logged, of_stock), (fused_size, fused_logged, of_fused) = results
    assert stock_size == fused_size
    assert set(stock_logged) == set(fused_logged)
    for name, value in stock_logged.items():
        assert float(fused_logged[name]) == pytest.approx(float(value), rel=1e-6), name
    torch.testing.assert_close(of_fused, of_stock, rtol=1e-5, atol=1e-6)


def test_one_loss_a_position_is_fairseqs(build: Build, batch: Any) -> None:
    training = [FUSED if option == STOCK else option for option in TRAINING]
    built = build("--dropout", "0", training=training)
    with torch.no_grad():
        each = built.criterion(built.model.eval(), batch, reduce=False)[0]
        whole = built.criterion(built.model, batch)[0]
    assert each.numel() == batch["target"].numel()
    torch.testing.assert_close(each.sum(), whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scheme", "slimmable", "--distillation-weight", "0.5"), "--distillation-weight is given"),
        (("--fp16", "--fp16-no-flatten-grads"), "--fp16 is given"),
        (("--amp",), "--amp is given"),
        (("--distributed-world-size", "2", "--ddp-backend", "pytorch_ddp"), "--ddp-backend pytorch_ddp is given"),
    ],
)
def test_what_needs_logits_is_refused_by_name(build: Build, options: tuple[str, ...], said: str) -> None:
    training = [FUSED if option == STOCK else option for option in TRAINING]
    with pytest.raises(ValueError, match=f"--criterion is {FUSED} and {said}"):
        build(*options, training=training)


def test_an_adaptive_softmax_is_refused(build: Build, parse: Callable[..., Any], batch: Any) -> None:
    training = [FUSED if option == STOCK else option for option in TRAINING]
    unshared = "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32"
    arch = [*unshared.split(), "--adaptive-softmax-cutoff", "20,40"]
    with pytest.raises(ValueError, match=f"--criterion is {FUSED} and --adaptive-softmax-cutoff is"):
        build(arch=arch, training=training)
    built = build(arch=arch, training=training, task="translation", optimizer="adam")
    with pytest.raises(ValueError, match="output layer is one matrix"):
        built.criterion(built.model, batch)

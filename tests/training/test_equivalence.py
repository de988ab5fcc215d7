"""Training at the super level only is stock training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim

from fairseq_ats.architectures.transformer import partition_linears_, partition_model_
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.partition import Partition
from tests.fixtures import with_our_attention
from tests.support.plain_networks import NOISE, adam_by_hand, dense_gradients

Build = Callable[..., SimpleNamespace]
UPDATES = 5


def train(
    built: SimpleNamespace,
    model: torch.nn.Module,
    batch: dict[str, Any],
    optimizer: str,
    updates: int = UPDATES,
    weight_decay: float = 0.01,
) -> Any:
    """A few updates through the stock task's own train_step, with dropout, and the optimizer."""
    cfg = built.cfg.optimizer
    cfg.weight_decay = weight_decay
    adam = optim.OPTIMIZER_REGISTRY[optimizer](cfg, [p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(11)
    for update in range(updates):
        adam.zero_grad()
        built.task.train_step(batch, model, built.criterion, adam, update)
        adam.multiply_grads(1 / batch["ntokens"])
        adam.step()
    return adam


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The effective weights under stock names."""
    result = {}
    for name, module in model.named_modules():
        if isinstance(module, PartitionedModule):
            result[f"{name}.weight"], result[f"{name}.bias"] = module.weight, module.bias
    for name, parameter in model.named_parameters():
        if "core_" not in name and "extension_" not in name:
            result[name] = parameter
    return result


@pytest.mark.parametrize("optimizer", ["adam", "adam_for_partitioned_model"])
@pytest.mark.parametrize("replace_attention", [False, True])
def test_small_width_at_the_super_level_is_stock_training(
    build: Build, batch: Any, replace_attention: bool, optimizer: str
) -> None:
    """The split layers bit for bit; our attention and the fused Adam, which compute in another order, to rounding."""
    # A whole partitioned model draws its dropout in another way.
    options = ("--dropout", "0" if replace_attention else "0.1")
    stock = build(*options, task="translation", optimizer="adam_for_partitioned_model")
    reference = build(*options, task="translation", optimizer="adam_for_partitioned_model").model
    train(stock, reference, batch, "adam")

    ours = stock.model
    swap = partition_model_ if replace_attention else partition_linears_
    swap(ours, Partition("PartitionedLinear", 0.25))
    train(stock, ours, batch, optimizer)
    expected, actual = weights(reference), weights(ours)
    assert set(expected) == set(actual)
    for name, value in expected.items():
        if name.endswith(NOISE):
            continue
        if replace_attention or optimizer != "adam":
            torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(actual[name], value), name


def test_twenty_updates_in_float64(build: Build, batch: Any, module_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole partitioned model at its super level (our layers, attention and Adam) against stock fairseq.

    Of low rank, the weight W + VU moves in another way than a dense weight does: there U and V are held still, and
    nothing decays.
    """
    # fairseq's is in float32 whatever the model's precision.
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))
    stock = build("--dropout", "0", task="translation", optimizer="adam_for_partitioned_model")
    ours, reference = stock.model.double(), copy.deepcopy(stock.model).double()
    partition_model_(ours, Partition(module_name, 0.25))
    ours.double()
    for name, parameter in ours.named_parameters():
        if name.endswith((".core_u", ".core_v")):
            parameter.requires_grad_(False)
    start = {name: value.detach().clone() for name, value in weights(ours).items()}
    decay = 0.0 if module_name == "PartitionedRankLinear" else 0.01
    train(stock, reference, batch, "adam", 20, decay)
    train(stock, ours, batch, "adam_for_partitioned_model", 20, decay)
    expected, actual = weights(reference), weights(ours)
    assert set(expected) == set(actual)
    for name, value in expected.items():
        if name.endswith(NOISE):
            continue
        assert not torch.equal(value, start[name]), name
        # fairseq's softmax is in float32 where weights are asked for (the last cross-attention), and Adam scales up
        # what that does to gradients near zero.
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_updates_above_moved_something(build: Build, batch: Any) -> None:
    built = build(task="translation", optimizer="adam")
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    train(built, built.model, batch, "adam")
    for name, parameter in built.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("update_freq", [1, 3])
def test_ats_against_two_plain_networks_in_float64(build: Build, batch: Any, update_freq: int) -> None:
    """Algorithm 2 written out with dense weights, without any partitioned layer.

    The super-network is a stock model whose replaced weights are W + VU; the core's are VU. The reference keeps U, V
    and W itself, takes each network's gradient with respect to its dense weights from autograd, and applies the chain
    rule and Adam by hand.
    """
    # From a W that is not zero, at which Adam would make much of rounding.
    built = build("--alternate", "--init-super", "stock", "--small-ratio", "0.25", "--dropout", "0")
    model = built.model.double()
    model.eval()  # no dropout; the criterion is called directly below
    stock = build("--dropout", "0", task="translation", optimizer="adam").model.double().eval()
    with_our_attention(stock)

    cfg = built.cfg.optimizer
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](cfg, list(model.parameters()))
    reference = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: [0.0, 0.0, 0] for name in reference}
    replaced = [name for name, m in model.named_modules() if isinstance(m, PartitionedModule)]

    def loss(network: torch.nn.Module) -> torch.Tensor:
        total, sample_size, _ = built.criterion(network, batch)
        return total / sample_size

    for update in range(4):
        level = max(built.task.scheme.update(update).levels)
        assert level == (2 if update % 2 == 0 else 1)
        adam.zero_grad()
        for _ in range(update_freq):
            model.train = lambda mode=True: model  # train_step would switch dropout of attention on
            built.task.train_step(batch, model, built.criterion, adam, update)
        adam.multiply_grads(1 / (update_freq * batch["ntokens"]))
        built.task.optimizer_step(adam, model, update)

        gradients = dense_gradients(stock, reference, replaced, level, loss)
        for name, gradient in gradients.items():
            adam_by_hand(reference, moments, name, gradient, cfg.lr[0], cfg.adam_eps)
    for name, parameter in model.named_parameters():
        if name.endswith(NOISE):
            continue
        # fairseq's loss takes its log-softmax in float32 (fairseq/utils.py, log_softmax).
        torch.testing.assert_close(parameter.detach(), reference[name], rtol=1e-4, atol=1e-6)

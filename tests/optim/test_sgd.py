"""SGD with a mask, on a ResNet whose every network has norms of its own."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fairseq_ats.architectures.resnet import ResNet
from fairseq_ats.modules.levels import freeze_outside, use_level
from fairseq_ats.optim import FairseqSGDForPartitionedModel
from fairseq_ats.optim.mask import LevelMask
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModelConfig
from fairseq_ats.partition.tags import holds
from tests.support.plain_resnet import images, partitioned

TARGET = torch.tensor([1, 7, 3])


def build(model: ResNet, **options: Any) -> FairseqSGDForPartitionedModel:
    return FairseqSGDForPartitionedModel(SGDForPartitionedModelConfig(lr=[0.05], **options), list(model.parameters()))


def update(model: ResNet, optimizer: Any, level: int, masked: bool = True) -> None:
    """One update of a level, with all gradients filled with zeros first, as fairseq's legacy_ddp does."""
    freeze_outside(model, (level,))
    with use_level(model, level):
        F.cross_entropy(model(images(seed=level)), TARGET).backward()
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    if masked:
        with optimizer.masked(LevelMask((level,))):
            optimizer.step()
    else:
        optimizer.step()
    optimizer.zero_grad()


def state(model: ResNet, optimizer: Any) -> dict[str, torch.Tensor]:
    """Weights, running statistics and counts of batches, and momentum."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    for name, p in model.named_parameters():
        momentum = optimizer.state[p].get("momentum_buffer")
        tensors[f"{name}.momentum"] = torch.zeros(()) if momentum is None else momentum.clone()
    return tensors


def owner_levels(model: ResNet, name: str) -> set[int]:
    """The levels of a tensor: those of its parameter, or of the norm that a buffer belongs to."""
    parameter = dict(model.named_parameters()).get(name.removesuffix(".momentum"))
    if parameter is not None:
        return {level for level in (1, 2, 3) if holds(parameter, level)}
    return {{"core": 1, "extension_2": 2, "extension": 3}[name.split(".")[-2]]}


def test_an_update_moves_one_network_and_nothing_else() -> None:
    model = partitioned((0.25, 0.5), width=4)
    optimizer = build(model, momentum=0.9, weight_decay=5e-4, nesterov=True).optimizer
    for level in (3, 2, 1, 3, 1):
        before = state(model, optimizer)
        update(model, optimizer, level)
        for name, after in state(model, optimizer).items():
            moves = level in owner_levels(model, name)
            assert torch.equal(before[name], after) != moves, f"{name} in an update of level {level}"


def test_plain_sgd_moves_what_is_masked() -> None:
    """The test above can fail: momentum and decay move masked weights of an optimizer that knows no mask."""
    model = partitioned((0.25, 0.5), width=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    update(model, optimizer, 3, masked=False)
    before = model.layer1[0].conv1.extension_rows.detach().clone()
    update(model, optimizer, 1, masked=False)
    assert not torch.equal(before, model.layer1[0].conv1.extension_rows)


def test_slimmable_update_is_the_sum_of_two_gradients() -> None:
    """Both networks in one update, against two separate backward passes and plain SGD."""
    model = partitioned(0.5, width=4)
    reference = copy.deepcopy(model)  # loses the tags, which plain SGD does not read
    plain = torch.optim.SGD(reference.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    optimizer = build(model, momentum=0.9, weight_decay=5e-4).optimizer
    for number in range(3):
        for level in (2, 1):
            with use_level(model, level):
                F.cross_entropy(model(images(seed=number)), TARGET).backward()
        optimizer.step()
        optimizer.zero_grad()
        gradients = []
        for level in (2, 1):
            with use_level(reference, level):
                loss = F.cross_entropy(reference(images(seed=number)), TARGET)
                gradients.append(torch.autograd.grad(loss, list(reference.parameters()), allow_unused=True))
        for p, *parts in zip(reference.parameters(), *gradients, strict=True):
            p.grad = sum((g for g in parts if g is not None), torch.zeros_like(p))
        plain.step()
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "--momentum is 1.0; allowed: 0 <= momentum < 1"),
        ({"momentum": -0.1}, "--momentum is -0.1"),
        ({"momentum": 0.0, "nesterov": True}, "--nesterov is given and --momentum is 0; allowed: a momentum above 0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0; allowed: 0 or more"),
        ({"alternate_lr_coef": 0.0}, "--alternate-lr-coef is 0.0; allowed: > 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(partitioned(0.5, width=2), **options)


def test_state_comes_back_with_the_coefficient() -> None:
    model = partitioned(0.5, width=2)
    optimizer = build(model, alternate_lr_coef=0.5)
    update(model, optimizer.optimizer, 2)
    again = build(partitioned(0.5, width=2))
    again.load_state_dict(optimizer.state_dict(), {"lr": 0.01})
    (group,) = again.param_groups
    assert (group["alternate_lr_coef"], group["lr"], group["momentum"]) == (0.5, 0.01, 0.9)
    buffers = [s["momentum_buffer"] for s in again.optimizer.state.values()]
    assert len(buffers) == sum(holds(p, 2) for p in model.parameters())


def test_lr_is_the_first_of_several() -> None:
    optimizer = build(partitioned(0.5, width=2))
    assert optimizer.get_lr() == 0.05
    assert SimpleNamespace(**optimizer.optimizer_config) == SimpleNamespace(
        lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=False
    )

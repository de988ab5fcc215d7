"""Masks: element masks against one optimizer a coordinate, and parameters that belong to one network alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fairseq.optim.adam import Adam
from torch import Tensor, nn

from fairseq_ats import PartitionedLinear
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.levels import freeze_outside, use_level
from fairseq_ats.optim.adam_for_partitioned_model import AdamForPartitionedModel
from fairseq_ats.optim.mask import ElementMask, LevelMask, MaskedStep
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModel
from fairseq_ats.optim.unreduced import clip_at_once
from fairseq_ats.partition.tags import holds, levels_of, tag_levels
from tests.optim.test_adam import build_optimizer, config, snapshot

# Element masks.

SHAPES = ((6, 5), (4, 7), (6,), (3, 2, 2))
UPDATES = 50
ADAM = {"lr": 0.03, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.1}
MOMENTUM = {"lr": 0.03, "momentum": 0.9, "weight_decay": 0.1}
NESTEROV = MOMENTUM | {"nesterov": True}
PLAIN = MOMENTUM | {"momentum": 0.0}


class TensorCountAdam(MaskedStep, torch.optim.AdamW):
    """An optimizer with one step count for all coordinates."""


def random_selection(shape: Sequence[int], generator: torch.Generator) -> bool | Tensor:
    """Everything, nothing, rows, columns, or elements."""
    kind = int(torch.randint(5, (), generator=generator))
    if kind < 2:
        return kind == 0
    sizes = {2: (shape[0], *(1 for _ in shape[1:])), 3: (*(1 for _ in shape[1:]), shape[-1]), 4: tuple(shape)}[kind]
    return torch.rand(sizes, generator=generator) < 0.4


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_by_coordinate(masked: Callable[..., Any], plain: Callable[..., Any], options: dict[str, Any]) -> list[Any]:
    """Hold ``masked`` against one scalar optimizer ``plain`` for each coordinate; return every step count seen."""
    generator = torch.Generator().manual_seed(8)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    parameters = [nn.Parameter(x.clone()) for x in start]
    scalars = [[nn.Parameter(x.clone()) for x in whole.flatten()] for whole in start]
    optimizer = masked(parameters, **options)
    references = [[plain([x], **options) for x in of_parameter] for of_parameter in scalars]
    counts = []
    for update in range(UPDATES):
        gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
        # All at last, so that a wrong state outside the masks would be seen.
        selections = [True if update == UPDATES - 1 else random_selection(shape, generator) for shape in SHAPES]
        before = [p.detach().clone() for p in parameters]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        with optimizer.masked(ElementMask(dict(zip(parameters, selections, strict=True)))):
            optimizer.step()
        for p, old, g, selected, of_p, steppers in zip(
            parameters, before, gradients, selections, scalars, references, strict=True
        ):
            moves = torch.as_tensor(selected).expand(p.shape)
            assert torch.equal(p[~moves], old[~moves])
            assert torch.equal(p.grad, g)
            for x, gradient, move, stepper in zip(of_p, g.flatten(), moves.flatten(), steppers, strict=True):
                if move:
                    x.grad = gradient.clone()
                    stepper.step()
            torch.testing.assert_close(p.flatten(), torch.stack(of_p), rtol=1e-12, atol=1e-12)
        counts += [optimizer.state[p].get("step") for p in parameters]
        if update % 10 == 6:
            state = saved_and_loaded(optimizer.state_dict())
            optimizer = masked(parameters, **options)
            optimizer.load_state_dict(state)
    return counts


def test_each_coordinate_runs_adam_on_its_updates() -> None:
    counts = check_by_coordinate(AdamForPartitionedModel, Adam, ADAM)
    tensors = [count for count in counts if isinstance(count, Tensor)]
    assert {count.shape for count in tensors} >= {(6, 1), (6, 5), (6,)}
    assert all(count.dtype == torch.float32 for count in tensors)
    assert any(isinstance(count, int) for count in counts)


@pytest.mark.parametrize("options", [MOMENTUM, NESTEROV, PLAIN], ids=["momentum", "nesterov", "plain"])
def test_each_coordinate_runs_sgd_on_its_updates(options: dict[str, Any]) -> None:
    check_by_coordinate(SGDForPartitionedModel, torch.optim.SGD, options)


@pytest.mark.parametrize("masked", [AdamForPartitionedModel, SGDForPartitionedModel])
def test_without_a_mask_the_coordinates_differ(masked: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail."""
    monkeypatch.setattr(ElementMask, "of", lambda self, parameter: True)
    plain, options = (Adam, ADAM) if masked is AdamForPartitionedModel else (torch.optim.SGD, MOMENTUM)
    with pytest.raises(AssertionError):
        check_by_coordinate(masked, plain, options)


def test_masks_on_gradients_alone_are_no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in the gradient leave the momentum and the decay of what is not selected."""

    def step_elements(self: Any, selected: dict[nn.Parameter, Tensor]) -> None:
        for p, elements in selected.items():
            p.grad = p.grad * elements
        super(MaskedStep, self).step()

    monkeypatch.setattr(SGDForPartitionedModel, "step_elements", step_elements, raising=False)
    with pytest.raises(AssertionError):
        check_by_coordinate(SGDForPartitionedModel, torch.optim.SGD, MOMENTUM)


def test_one_count_for_all_coordinates_is_refused() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = TensorCountAdam([p])
    p.grad = torch.ones_like(p)
    mask = ElementMask({p: torch.tensor([[True], [False], [True]])})
    with pytest.raises(TypeError, match="TensorCountAdam counts steps"), optimizer.masked(mask):
        optimizer.step()


def test_the_count_is_an_int_once_coordinates_agree() -> None:
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = AdamForPartitionedModel([p], **ADAM)
    p.grad = torch.ones_like(p)
    rows = torch.tensor([[True], [False]])
    seen = []
    for selected in (True, rows, True, ~rows, True):
        with optimizer.masked(ElementMask({p: selected})):
            optimizer.step()
        step = optimizer.state[p]["step"]
        seen.append(step.tolist() if isinstance(step, Tensor) else step)
    assert seen == [1, [[2.0], [1.0]], [[3.0], [2.0]], 3, 4]


def test_elements_of_parameters_held_as_copies_are_refused() -> None:
    model = nn.Linear(3, 2).half()
    optimizer = build_optimizer("fp16", config(), model)
    mask = ElementMask({model.weight: torch.tensor([[True], [False]])})
    with pytest.raises(ValueError, match="that the optimizer does not hold"), optimizer.optimizer.masked(mask):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_element_masks_in_lower_precision(dtype: torch.dtype) -> None:
    """What is not selected stays bit for bit; the rest moves by the learning rate."""
    p = nn.Parameter(torch.randn(4, 3).to(dtype))
    optimizer = AdamForPartitionedModel([p], **ADAM | {"weight_decay": 0.0})
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    columns = torch.tensor([[True, False, True]])
    with optimizer.masked(ElementMask({p: columns}), lr_scale=2.0):
        optimizer.step()
    moved = columns.expand(4, 3)
    assert torch.equal(p[~moved], before[~moved])
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close((before - p)[moved].float(), torch.full((8,), 0.06), rtol=0, atol=tolerance)
    assert optimizer.param_groups[0]["lr"] == ADAM["lr"]


# Levels as sets.


class OwnNorm(PartitionedModule):
    """A norm for each network."""

    def __init__(self, size: int) -> None:
        super().__init__(super_level=2)
        self.core, self.extension = nn.LayerNorm(size), nn.LayerNorm(size)
        self.extension.register_buffer("seen", torch.zeros(()))
        for level, norm in enumerate((self.core, self.extension), start=1):
            for parameter in norm.parameters():
                tag_levels(parameter, (level,))

    def forward(self, x: Tensor) -> Tensor:
        return (self.core if self.level == 1 else self.extension)(x)


def model_with_own_norms() -> nn.Sequential:
    torch.manual_seed(2)
    wide, narrow = nn.Linear(5, 6), nn.Linear(6, 5)
    layers = [PartitionedLinear.from_linear(wide, 0.5, dim=0), PartitionedLinear.from_linear(narrow, 0.5, dim=1)]
    return nn.Sequential(*layers, OwnNorm(5), nn.Linear(5, 5))


def test_tags_are_sets_of_levels() -> None:
    model = model_with_own_norms()
    expected = {"core_weight": {1, 2}, "extension_weight": {2}, "core.weight": {1}, "extension.weight": {2}}
    for name, parameter in model.named_parameters():
        _, own_name = name.split(".", 1)
        if name.startswith("3."):
            assert levels_of(parameter) is None
        elif own_name in expected:
            assert levels_of(parameter) == expected[own_name], name
    assert [holds(model[2].core.weight, level) for level in (1, 2)] == [True, False]
    assert [holds(model[3].weight, level) for level in (1, 2)] == [True, True]
    alone = PartitionedLinear.from_linear(nn.Linear(4, 4), 0.5, dim=0, max_level=1)
    assert levels_of(alone.core_weight) == {1}


@pytest.mark.parametrize("wrapper", ["fp32", "fp16", "memory-efficient fp16"])
@pytest.mark.parametrize("zero_filled", [False, True], ids=["missing", "zero-filled"])
def test_updates_move_the_norms_of_their_networks(wrapper: str, zero_filled: bool) -> None:
    model = model_with_own_norms()
    if "fp16" in wrapper:
        model.half()
    optimizer = build_optimizer(wrapper, config(), model)
    tags = [levels_of(p) or {1, 2} for p in model.parameters()]

    def update(levels: Sequence[int]) -> None:
        optimizer.zero_grad()
        for level in levels:
            with use_level(model, level):
                optimizer.backward(model(torch.randn(7, 5, dtype=model[3].weight.dtype)).float().square().sum())
        for p in model.parameters():
            if p.grad is None and zero_filled:
                p.grad = torch.zeros_like(p)
        optimizer.multiply_grads(0.25)
        optimizer.clip_grad_norm(0.5)
        with optimizer.optimizer.masked(LevelMask(levels)):
            optimizer.step()

    update((1, 2))
    for levels in ((1,), (2,), (1, 2), (2,), (1,)):
        before = snapshot(optimizer, model)
        update(levels)
        for old, new, tag in zip(before, snapshot(optimizer, model), tags, strict=True):
            moves = not tag.isdisjoint(levels)
            assert new["step"] == old["step"] + moves, (levels, new["name"])
            same = [torch.equal(a, b) for a, b in zip(old["tensors"], new["tensors"], strict=True)]
            assert not same[1] if moves else all(same), (levels, new["name"])


def test_gradients_for_the_norms_of_the_networks_that_run() -> None:
    model = model_with_own_norms()
    for levels in ((1,), (2,), (1, 2), (1,)):
        freeze_outside(model, levels)
        assert model[2].core.weight.requires_grad == (1 in levels)
        assert model[2].extension.weight.requires_grad == (2 in levels)
        assert model[0].extension_weight.requires_grad == (2 in levels)
        assert model[0].core_weight.requires_grad
        assert model[3].weight.requires_grad


def test_the_coefficient_goes_by_the_super_network() -> None:
    """--alternate-lr-coef scales updates that do not train the super-network, and not those with a masked norm."""
    for levels, expected in (((1,), 0.005), ((2,), 0.01), ((1, 2), 0.01)):
        model = model_with_own_norms()
        optimizer = build_optimizer("fp32", config(alternate_lr_coef=0.5, weight_decay=0.0), model)
        before = model[3].weight.detach().clone()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with optimizer.optimizer.masked(LevelMask(levels)):
            optimizer.step()
        torch.testing.assert_close(before - model[3].weight, torch.full_like(before, expected), rtol=1e-5, atol=0)


def test_a_core_loads_without_the_norm_of_the_super_network() -> None:
    state = {f"here.{name}": value for name, value in OwnNorm(5).state_dict().items()}
    core = OwnNorm(5)
    core.max_level = 1
    del core.extension
    core.upgrade_state_dict_named(state, "here")
    assert set(state) == {"here.core.weight", "here.core.bias"}
    core.load_state_dict({name.removeprefix("here."): value for name, value in state.items()})
    with pytest.raises(ValueError, match=r"the checkpoint has no here\.extension\.weight"):
        OwnNorm(5).upgrade_state_dict_named(state, "here")


@pytest.mark.parametrize("max_norm", [0, 0.5, 100])
def test_clipping_at_once_against_float64(max_norm: float) -> None:
    """The norm and the clipped gradients, to 1e-6; a parameter without a gradient stays without."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(3, 4), (5,), (2, 2, 2), (7,)]]
    for p in parameters[:3]:
        p.grad = torch.randn_like(p)
    before = [p.grad.double() for p in parameters[:3]]
    norm = sum(float((g**2).sum()) for g in before) ** 0.5
    assert float(clip_at_once(parameters, max_norm)) == pytest.approx(norm, rel=1e-6)
    scale = min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
    assert (scale < 1) == (max_norm == 0.5)
    for p, gradient in zip(parameters, before, strict=False):
        torch.testing.assert_close(p.grad.double(), scale * gradient, rtol=1e-6, atol=0)
    assert parameters[3].grad is None

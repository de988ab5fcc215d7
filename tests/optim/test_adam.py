"""The mask: what a core update must leave alone, under every wrapper and kind of missing gradient."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.optim.adam import Adam
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from fairseq_ats import FairseqAdamForPartitionedModel, PartitionedLinear, PartitionedRankLinear
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim import fused_adam
from fairseq_ats.optim.fused_adam import FusedAdam
from fairseq_ats.optim.mask import EVERYTHING, LevelMask
from fairseq_ats.partition.tags import holds
from tests.support.updates import lowest_level


def config(**changes: Any) -> Any:
    optimizer = {
        "_name": "adam_for_partitioned_model",
        "adam_betas": "(0.9, 0.98)",
        "adam_eps": 1e-9,
        "weight_decay": 0.1,
        "use_old_adam": False,
        "fp16_adam_stats": False,
        "tpu": False,
        "lr": [0.01],
        "alternate_lr_coef": 1.0,
    }
    common = {"fp16_init_scale": 4, "fp16_scale_window": 100, "fp16_scale_tolerance": 0.0, "bf16": False}
    common |= {"threshold_loss_scale": None, "min_loss_scale": 1e-4, "fp16_no_flatten_grads": True, "fp16": True}
    return OmegaConf.create({"optimizer": optimizer | changes, "common": common, "optimization": {"update_freq": [1]}})


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(2)
    if kind == "low rank":
        layers = [PartitionedRankLinear.from_linear(nn.Linear(5, 6), 0.4), nn.LayerNorm(6)]
    else:
        narrow = PartitionedLinear.from_linear(nn.Linear(5, 6), 0.5, dim=0)
        layers = [narrow, PartitionedLinear.from_linear(nn.Linear(6, 5), 0.5, dim=1), nn.LayerNorm(5)]
    return nn.Sequential(*layers)


def build_optimizer(wrapper: str, cfg: Any, model: nn.Module) -> Any:
    parameters = list(model.parameters())
    if wrapper == "fp32":
        return FairseqAdamForPartitionedModel(cfg.optimizer, parameters)
    kinds = {"fp16": FP16Optimizer, "memory-efficient fp16": MemoryEfficientFP16Optimizer, "amp": AMPOptimizer}
    return kinds[wrapper].build_optimizer(cfg, parameters)


def snapshot(optimizer: Any, model: nn.Module) -> list[dict[str, Any]]:
    """Weights of the model, and weights and Adam state of what the torch optimizer holds, in the model's order."""
    held = [p for group in optimizer.optimizer.param_groups for p in group["params"]]
    result = []
    for name_and_parameter, master in zip(model.named_parameters(), held, strict=True):
        name, parameter = name_and_parameter
        state = optimizer.optimizer.state[master]
        result.append(
            {
                "name": name,
                "level": lowest_level(parameter),
                "tensors": [t.detach().clone() for t in (parameter, master, state["exp_avg"], state["exp_avg_sq"])],
                "step": state["step"],
            }
        )
    return result


def update(optimizer: Any, model: nn.Module, level: int, zero_filled: bool, clip: float) -> None:
    optimizer.zero_grad()
    dtype = next(model.parameters()).dtype
    x = torch.randn(7, 5, dtype=dtype)
    with use_level(model, level):
        optimizer.backward(model(x).float().square().sum())
    if zero_filled:
        for p in model.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
    optimizer.multiply_grads(0.25)
    optimizer.clip_grad_norm(clip)
    with optimizer.optimizer.masked(LevelMask((level,))):
        optimizer.step()


@pytest.mark.parametrize("wrapper", ["fp32", "fp16", "memory-efficient fp16", "amp"])
@pytest.mark.parametrize("zero_filled", [False, True], ids=["missing", "zero-filled"])
@pytest.mark.parametrize("kind", ["low rank", "small width"])
@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_core_update_touches_the_core_only(wrapper: str, zero_filled: bool, kind: str) -> None:
    model = model_of(kind)
    if "fp16" in wrapper:
        model.half()
    optimizer = build_optimizer(wrapper, config(), model)
    update(optimizer, model, 2, zero_filled, clip=0.5)
    before = snapshot(optimizer, model)
    update(optimizer, model, 1, zero_filled, clip=0.5)
    after = snapshot(optimizer, model)
    check_core_update(before, after)

    update(optimizer, model, 2, zero_filled, clip=0.5)
    for old, new in zip(after, snapshot(optimizer, model), strict=True):
        assert new["step"] == old["step"] + 1
        assert not torch.equal(new["tensors"][1], old["tensors"][1]), new["name"]


def check_core_update(before: list[dict], after: list[dict]) -> None:
    assert {entry["level"] for entry in before} == {1, 2}
    for old, new in zip(before, after, strict=True):
        if old["level"] == 2:
            assert new["step"] == old["step"], new["name"]
            assert all(torch.equal(a, b) for a, b in zip(old["tensors"], new["tensors"], strict=True)), new["name"]
        else:
            assert new["step"] == old["step"] + 1
            assert not torch.equal(old["tensors"][1], new["tensors"][1]), new["name"]


@given(
    in_features=st.integers(1, 9),
    out_features=st.integers(2, 9),
    ratio=st.floats(0.05, 0.9),
    low_rank=st.booleans(),
    weight_decay=st.floats(0, 0.5),
    beta1=st.floats(0, 0.99),
    lr=st.floats(1e-4, 1.0),
    coefficient=st.floats(0.1, 3),
    zero_filled=st.booleans(),
)
def test_mask_for_any_shape_and_option(
    in_features: int,
    out_features: int,
    ratio: float,
    low_rank: bool,
    weight_decay: float,
    beta1: float,
    lr: float,
    coefficient: float,
    zero_filled: bool,
) -> None:
    stock = nn.Linear(in_features, out_features)
    make = PartitionedRankLinear.from_linear if low_rank else PartitionedLinear.from_linear
    model = make(stock, ratio) if low_rank else make(stock, ratio, dim=0)
    options = {"weight_decay": weight_decay, "adam_betas": f"({beta1}, 0.98)", "lr": [lr]}
    cfg = config(**options, alternate_lr_coef=coefficient)
    optimizer = FairseqAdamForPartitionedModel(cfg.optimizer, list(model.parameters()))
    generator = torch.Generator().manual_seed(1)

    def step(level: int) -> None:
        for p in model.parameters():
            outside = not holds(p, level)
            p.grad = torch.randn(p.shape, generator=generator) if not outside else None
            if outside and zero_filled:
                p.grad = torch.zeros_like(p)
        with optimizer.optimizer.masked(LevelMask((level,))):
            optimizer.step()

    step(2)
    before = snapshot(optimizer, model)
    step(1)
    after = snapshot(optimizer, model)
    for old, new in zip(before, after, strict=True):
        same = all(torch.equal(a, b) for a, b in zip(old["tensors"][2:], new["tensors"][2:], strict=True))
        empty = old["tensors"][0].numel() == 0
        assert (same and new["step"] == old["step"]) == (old["level"] == 2) or empty, new["name"]
        if old["level"] == 2:
            assert torch.equal(old["tensors"][0], new["tensors"][0])


def test_without_a_mask_zero_gradients_move_the_extension() -> None:
    """The check above can fail: this is stock Adam in the place of ours."""
    model = model_of("low rank")
    optimizer = SimpleNamespace(optimizer=Adam(model.parameters(), lr=0.01, weight_decay=0.1))
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.optimizer.step()
    before = snapshot(optimizer, model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if lowest_level(p) == 2 else torch.ones_like(p)
    optimizer.optimizer.step()
    with pytest.raises(AssertionError, match="extension_weight"):
        check_core_update(before, snapshot(optimizer, model))


def test_two_updates_against_a_reference_in_float64() -> None:
    """A super update and a core update of Adam with decoupled weight decay, written out."""
    lr, decay, eps, (b1, b2), coefficient = 0.01, 0.1, 1e-9, (0.9, 0.98), 0.5
    model = model_of("low rank").double()
    optimizer = FairseqAdamForPartitionedModel(
        config(alternate_lr_coef=coefficient).optimizer, list(model.parameters())
    )
    generator = torch.Generator().manual_seed(4)
    gradients = [
        {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}
        for _ in range(2)
    ]
    expected = {}
    for name, parameter in model.named_parameters():
        x, m, v = parameter.detach().clone(), 0.0, 0.0
        for t, rate in ((1, lr), (2, lr * coefficient)):
            if t == 2 and "extension_" in name:
                continue
            g = gradients[t - 1][name]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            step_size = rate * (1 - b2**t) ** 0.5 / (1 - b1**t)
            x = x - rate * decay * x - step_size * m / (v.sqrt() + eps)
        expected[name] = x
    for level, gradient in zip((2, 1), gradients, strict=True):
        for name, parameter in model.named_parameters():
            parameter.grad = gradient[name].clone()
        with optimizer.optimizer.masked(LevelMask((level,))):
            optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-14)
    assert optimizer.get_lr() == lr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fused_steps_are_fairseqs_steps(dtype: torch.dtype) -> None:
    """20 updates with weight decay; one parameter joins later and has a step count of its own."""

    def parameters() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(5)
        return [nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in ((3, 7), (40,), (9, 5))]

    def run(adam: Adam) -> list[torch.Tensor]:
        held = adam.param_groups[0]["params"]
        generator = torch.Generator().manual_seed(6)
        for number in range(20):
            for p in held:
                gradient = torch.randn(p.shape, generator=generator).to(dtype) * 1e-6  # of epsilon's size
                p.grad = None if p is held[2] and number < 7 else gradient
            adam.step()
        states = [adam.state[p] for p in held]
        assert [state["step"] for state in states] == [20, 20, 13]
        return [p.detach() for p in held] + [s[key] for s in states for key in ("exp_avg", "exp_avg_sq")]

    options = {"lr": 0.05, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.1}
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.0}[dtype]
    for actual, expected in zip(
        run(FusedAdam(parameters(), **options)), run(Adam(parameters(), **options)), strict=True
    ):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 1e-6)


def test_a_transposed_gradient() -> None:
    results = []
    for adam in (FusedAdam, Adam):
        p = nn.Parameter(torch.zeros(3, 7))
        optimizer = adam([p], lr=0.1, betas=(0.9, 0.98), eps=1e-9)
        p.grad = torch.arange(21.0).view(7, 3).T - 10
        optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def test_the_fused_kernel_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each step count among the parameters that move."""
    calls = []
    real = fused_adam.adamw
    monkeypatch.setattr(fused_adam, "adamw", lambda *a, **k: (calls.append(len(a[0])), real(*a, **k)))
    model = model_of("low rank")
    optimizer = build_optimizer("fp32", config(), model)
    for level in (2, 1, 2):
        update(optimizer, model, level, zero_filled=True, clip=0.5)
    assert calls == [6, 5, 5, 1]


def test_lost_levels_are_noticed() -> None:
    model = copy.deepcopy(model_of("low rank"))
    optimizer = FairseqAdamForPartitionedModel(config().optimizer, list(model.parameters()))
    with pytest.raises(ValueError, match="no parameter that is tagged"), optimizer.optimizer.masked(LevelMask((1,))):
        pass


def test_gradients_and_rate_are_back_after_a_failed_step() -> None:
    model = model_of("low rank")
    optimizer = FairseqAdamForPartitionedModel(config(alternate_lr_coef=0.5).optimizer, list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model[0].core_u.grad = torch.ones(2, 5).to_sparse()  # Adam refuses sparse gradients
    with pytest.raises(RuntimeError, match="sparse"), optimizer.optimizer.masked(LevelMask((1,))):
        optimizer.step()
    assert torch.equal(model[0].extension_weight.grad, torch.ones(6, 5))
    assert optimizer.get_lr() == 0.01
    assert optimizer.optimizer.mask is EVERYTHING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adam_betas": "0.9"}, r"--adam-betas is 0\.9; allowed: two numbers"),
        ({"adam_betas": "(0.9, 1.5)"}, r"--adam-betas is \(0\.9, 1\.5\)"),
        ({"alternate_lr_coef": 0.0}, r"--alternate-lr-coef is 0\.0; allowed: > 0"),
        ({"fp16_adam_stats": True}, "--fp16-adam-stats is not supported"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairseqAdamForPartitionedModel(config(**options).optimizer, [nn.Parameter(torch.ones(1))])


def test_flat_fp16_parameters_are_refused() -> None:
    model = model_of("low rank").half()
    cfg = config()
    cfg.common.fp16_no_flatten_grads = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.current_device", lambda: "cpu")
        with pytest.raises(RuntimeError, match="please set --fp16-no-flatten-grads"):
            build_optimizer("fp16", cfg, model)

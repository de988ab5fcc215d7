"""Training schemes: which networks an update trains, and that it trains them as a few plain lines would."""

from __future__ import annotations

import collections
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.modules.partitioned_module import PartitionedModule
from fairseq_ats.schemes import Schedule, parsed_pattern
from tests.conftest import with_our_attention
from tests.plain_networks import NOISE, adam_by_hand, dense_gradients, set_dense_weights

Build = Callable[..., SimpleNamespace]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("standard", 2), "2 2 2 2"),
        (Schedule("standard", 1), "1 1 1 1"),
        (Schedule("core", 1), "1 1 1 1"),
        (Schedule("alternate", 2), "2 1 2 1 2"),
        (Schedule("alternate", 3), "3 2 1 3 2 1 3"),
        (Schedule("alternate", 2, (3, 1)), "2 2 2 1 2 2 2 1"),
        (Schedule("alternate", 3, (2, 1, 3)), "3 3 2 1 1 1 3 3 2"),
        (Schedule("alternate", 2, (1, 2), super_only_updates=3), "2 2 2 2 1 1 2 1 1"),
        (Schedule("alternate", 2, (), super_only_updates=1, core_only_from=4), "2 2 1 2 1 1 1"),
        (Schedule("slimmable", 2), "21 21"),
        (Schedule("slimmable", 3, (), super_only_updates=1, core_only_from=3), "3 321 321 1 1"),
    ],
)
def test_levels_of_updates(schedule: Schedule, expected: str) -> None:
    wanted = [tuple(map(int, update)) for update in expected.split()]
    assert [schedule.levels_of_update(n) for n in range(len(wanted))] == wanted


@given(
    pattern=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    super_only_updates=st.integers(0, 7),
    periods=st.integers(0, 10**6),
)
def test_a_pattern_repeats_and_counts(pattern: list[int], super_only_updates: int, periods: int) -> None:
    """Any period holds each level as often as the pattern says, from the highest down, and is like the first."""
    schedule = Schedule("alternate", len(pattern), tuple(pattern), super_only_updates)
    first = [schedule.levels_of_update(super_only_updates + n) for n in range(sum(pattern))]
    assert sorted(first, reverse=True) == first
    counts = collections.Counter(level for update in first for level in update)
    assert [counts[level] for level in range(len(pattern), 0, -1)] == pattern
    start = super_only_updates + periods * sum(pattern)
    assert [schedule.levels_of_update(start + n) for n in range(sum(pattern))] == first
    assert {schedule.levels_of_update(n) for n in range(super_only_updates)} <= {(len(pattern),)}


def test_parsed_pattern() -> None:
    assert parsed_pattern("3:1") == (3, 1)
    assert parsed_pattern("10:2:1") == (10, 2, 1)
    for wrong in ("", "3:", "0:1", "-1:1", "1.5:1", "a:b", "²:1"):
        with pytest.raises(ValueError, match=r"--alternate-pattern is .* allowed: whole numbers above 0"):
            parsed_pattern(wrong)


def test_impossible_schedules() -> None:
    with pytest.raises(ValueError, match="--scheme slimmable needs two networks"):
        Schedule("slimmable", 1)
    # What YAML makes of 3:1.
    with pytest.raises(ValueError, match=r"--alternate-pattern is 181; allowed: 2 numbers.* in quotes"):
        Schedule("alternate", 2, parsed_pattern("181"))


# Options, levels of each update, weight and temperature of distillation, learning rate of updates of the core alone.
REFERENCES = {
    "standard": ([], [[2]] * 2, 0.0, 1.0, 1.0),
    "core": (["--scheme", "core"], [[1]] * 2, 0.0, 1.0, 1.0),
    "pattern": (["--alternate", "--alternate-pattern", "2:1"], [[2], [2], [1], [2]], 0.0, 1.0, 1.0),
    "slimmable": (["--scheme", "slimmable"], [[2, 1]] * 2, 0.0, 1.0, 1.0),
    "phases": (
        "--scheme slimmable --super-only-updates 1 --core-only-from 2 --alternate-lr-coef 0.5".split(),
        [[2], [2, 1], [1]],
        0.0,
        1.0,
        0.5,
    ),
    "alternate, distilled": (
        "--alternate --distillation-weight 0.4 --distillation-temperature 2".split(),
        [[2], [1], [2]],
        0.4,
        2.0,
        1.0,
    ),
    "slimmable, distilled": (
        "--scheme slimmable --distillation-weight 0.7 --distillation-temperature 1.5".split(),
        [[2, 1]] * 2,
        0.7,
        1.5,
        1.0,
    ),
    "soft targets alone": ("--alternate --distillation-weight 1".split(), [[2], [1]], 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize(
    ("options", "levels_of_updates", "weight", "temperature", "lr_coef"), REFERENCES.values(), ids=REFERENCES
)
def test_updates_against_plain_networks_in_float64(
    build: Build,
    batch: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    levels_of_updates: list[list[int]],
    weight: float,
    temperature: float,
    lr_coef: float,
) -> None:
    """Stock models with the dense weights of each network, autograd, the chain rule and Adam by hand."""
    # fairseq's is in float32 whatever the model's precision.
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))
    built = build(*options, "--small-ratio", "0.25", "--dropout", "0")
    model = built.model.double()
    stock = with_our_attention(build("--dropout", "0", task="translation", optimizer="adam").model.double())
    cfg = built.cfg.optimizer
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](cfg, list(model.parameters()))
    reference = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: [0.0, 0.0, 0] for name in reference}
    replaced = [name for name, m in model.named_modules() if isinstance(m, PartitionedModule)]
    target = batch["target"]

    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return (logits / temperature).softmax(-1)[target != 1]  # 1 is padding

    for update, levels_of_update in enumerate(levels_of_updates):
        adam.zero_grad()
        _, sample_size, _ = built.task.train_step(batch, model, built.criterion, adam, update)
        assert sample_size == batch["ntokens"], "a mini-batch counts once"
        adam.multiply_grads(1 / sample_size)
        built.task.optimizer_step(adam, model, update)

        soft_targets = None
        if weight > 0:
            set_dense_weights(stock, reference, replaced, 2)
            soft_targets = probabilities(stock(**batch["net_input"])[0]).detach()
        total = collections.defaultdict(float)
        for level in levels_of_update:

            def loss(network: torch.nn.Module, level: int = level, p: torch.Tensor | None = soft_targets) -> Any:
                own, _, _ = built.criterion(network, batch)
                if level == 1 and p is not None:
                    kl = (p * (p / probabilities(network(**batch["net_input"])[0])).log()).sum()
                    own = (1 - weight) * own + weight * temperature**2 * kl
                return own / batch["ntokens"]

            for name, gradient in dense_gradients(stock, reference, replaced, level, loss).items():
                total[name] += gradient
        trains_super = 2 in levels_of_update
        for name, gradient in total.items():
            adam_by_hand(
                reference, moments, name, gradient, cfg.lr[0] * (1.0 if trains_super else lr_coef), cfg.adam_eps
            )
    for name, parameter in model.named_parameters():
        if not name.endswith(NOISE):
            torch.testing.assert_close(
                parameter.detach(), reference[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )

"""In-place distillation: who teaches, with which dropout, in which precision, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import metrics, optim
from fairseq.criterions import FairseqCriterion

Build = Callable[..., SimpleNamespace]

DISTILLED = ("--small-ratio", "0.25", "--distillation-weight", "0.5", "--distillation-temperature", "2")


def step(built: SimpleNamespace, batch: dict[str, Any], update: int, criterion: Any = None) -> dict[str, Any]:
    """The logging output of one ``train_step``; gradients are left on the model."""
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    adam.zero_grad()
    torch.manual_seed(5)
    return built.task.train_step(batch, built.model, criterion or built.criterion, adam, update)[2]


def passes_of(model: torch.nn.Module) -> list[tuple[int, bool, torch.Tensor]]:
    """Level, whether dropout was on, and logits of each forward pass from now on."""
    seen = []
    layer = model.encoder.layers[0].fc1
    model.register_forward_hook(lambda m, args, output: seen.append((layer.level, m.training, output[0].detach())))
    return seen


@pytest.mark.parametrize(
    ("scheme", "update", "passes"),
    [
        ("slimmable", 0, [(2, True), (1, True)]),  # the teacher is the update's own pass
        ("alternate", 0, [(2, True)]),
        ("alternate", 1, [(2, False), (1, True)]),  # one more pass, without dropout
    ],
)
def test_the_teacher_and_its_dropout(
    build: Build, batch: Any, scheme: str, update: int, passes: list[tuple[int, bool]]
) -> None:
    built = build("--scheme", scheme, "--dropout", "0.4", *DISTILLED)
    seen = passes_of(built.model)
    logged = step(built, batch, update)
    assert [(level, training) for level, training, _ in seen] == passes
    if len(passes) == 1:
        assert not [key for key in logged if "distillation" in key]
        return
    target = batch["target"]
    p, q = ((logits / 2).double().softmax(-1)[target != 1] for _, _, logits in seen)
    expected = (p * (p / q).log()).sum().item()
    assert expected > 0.1
    assert logged["core:distillation"].item() == pytest.approx(expected, rel=1e-4)
    assert logged["core:distillation_tokens"] == batch["ntokens"]


def test_a_core_update_draws_the_dropout_of_one_without_distillation(build: Build, batch: Any) -> None:
    """And moves nothing of the teacher."""
    plain = step(build("--alternate", "--small-ratio", "0.25"), batch, 1)
    built = build("--alternate", *DISTILLED)
    distilled = step(built, batch, 1)
    assert torch.equal(plain["core:loss"], distilled["core:loss"])
    for name, parameter in built.model.named_parameters():
        assert "extension_" not in name or parameter.grad is None


def test_the_teacher_gets_no_gradient_in_a_slimmable_update(build: Build, batch: Any) -> None:
    gradients = []
    for options in (("--small-ratio", "0.25"), DISTILLED):
        built = build("--scheme", "slimmable", *options)
        step(built, batch, 0)
        gradients.append({n: p.grad.clone() for n, p in built.model.named_parameters() if "extension_" in n})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("scheme", ["alternate", "slimmable"])
def test_autocast(build: Build, batch: Any, scheme: str) -> None:
    """A pass without gradient must not leave its bfloat16 weights to the pass with one."""
    options = ("--scheme", scheme, "--dropout", "0", *DISTILLED)
    plain, lower = build(*options), build(*options, "--autocast", "bfloat16")
    expected, actual = step(plain, batch, 1), step(lower, batch, 1)
    assert actual["core:distillation"].dtype == torch.float32
    assert actual["core:loss"] != expected["core:loss"]
    for (name, p), q in zip(plain.model.named_parameters(), lower.model.parameters(), strict=True):
        if p.grad is None or name.endswith("k_proj.core_bias"):
            continue
        assert (p.grad - q.grad).norm() < 0.1 * p.grad.norm(), name


class TwoPasses(FairseqCriterion):
    def forward(self, model: Any, sample: dict[str, Any]) -> Any:
        model(**sample["net_input"])
        return model(**sample["net_input"])[0].sum(), sample["ntokens"], {}


def test_a_criterion_of_several_passes_is_refused(build: Build, batch: Any) -> None:
    built = build("--alternate", *DISTILLED)
    step(built, batch, 0, TwoPasses(built.task))  # not distilled
    with pytest.raises(ValueError, match=r"--distillation-weight needs a --criterion .* TwoPasses called it 2 times"):
        step(built, batch, 1, TwoPasses(built.task))
    assert not built.model._forward_hooks


def test_logged_in_bits_and_held(build: Build) -> None:
    """Over two workers; in an update of the super-network with weight 0; not at all in a validation."""
    task = build("--alternate", *DISTILLED).task
    worker = {"core:distillation": torch.tensor(6.0), "core:distillation_tokens": 10, "core:ntokens": 10}
    base = {"loss": 1.0, "nll_loss": 1.0, "ntokens": 10, "nsentences": 1, "sample_size": 10}
    core = worker | {f"core:{key}": value for key, value in base.items()}
    criterion = build().criterion
    metrics.reset()
    with metrics.aggregate("train_inner") as inner:
        task.reduce_metrics([core, core], criterion)
        assert inner["core_distillation"].avg == pytest.approx(0.6 / math.log(2))
        assert "distillation" not in inner
        inner.reset()
        task.reduce_metrics([base], criterion)
        assert (inner["core_distillation"].count, inner["core_distillation"].val) == (
            0,
            pytest.approx(0.6 / math.log(2)),
        )
    with metrics.aggregate("valid", new_root=True) as valid:
        task.reduce_metrics([base | {f"core:{key}": value for key, value in base.items()}], criterion)
        assert "core_loss" in valid
        assert "core_distillation" not in valid
    metrics.reset()

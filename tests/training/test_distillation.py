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

from tests.fixtures import TINY_ARCH
from tests.support.plain_networks import NOISE

Build = Callable[..., SimpleNamespace]

UNSHARED = [option for option in TINY_ARCH if option != "--share-all-embeddings"]
DISTILLED = ("--small-ratio", "0.25", "--distillation-weight", "0.5", "--distillation-temperature", "2")


def step(built: SimpleNamespace, batch: dict[str, Any], update: int, criterion: Any = None) -> dict[str, Any]:
    """The logging output of one ``train_step``; gradients are left on the model."""
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    adam.zero_grad()
    torch.manual_seed(5)
    return built.task.train_step(batch, built.model, criterion or built.criterion, adam, update)[2]


def gradients_of(built: SimpleNamespace) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


def passes_of(model: torch.nn.Module) -> list[tuple[int, bool, torch.Tensor]]:
    """Level, whether dropout was on, and logits of each forward pass from now on."""
    seen = []
    layer = model.encoder.layers[0].fc1
    model.register_forward_hook(lambda m, args, output: seen.append((layer.level, m.training, output[0].detach())))
    return seen


@pytest.mark.parametrize(
    ("scheme", "ratios", "update", "passes"),
    [
        ("slimmable", "0.25", 0, [(2, True), (1, True)]),  # the teacher is the update's own pass
        ("slimmable", "0.125,0.5", 0, [(3, True), (2, True), (1, True)]),
        ("alternate", "0.25", 0, [(2, True)]),
        ("alternate", "0.25", 1, [(2, False), (1, True)]),  # one more pass, without dropout
        ("alternate", "0.125,0.5", 1, [(3, False), (2, True)]),
    ],
)
def test_the_teacher_and_its_dropout(
    build: Build, batch: Any, scheme: str, ratios: str, update: int, passes: list[tuple[int, bool]]
) -> None:
    built = build("--scheme", scheme, "--dropout", "0.4", *DISTILLED, "--small-ratio", ratios)
    seen = passes_of(built.model)
    logged = step(built, batch, update)
    assert [(level, training) for level, training, _ in seen] == passes
    p, *rest = ((logits / 2).double().softmax(-1)[batch["target"] != 1] for _, _, logits in seen)
    assert len([key for key in logged if key.endswith(":distillation")]) == len(rest)
    for q, (level, _) in zip(rest, passes[1:], strict=True):
        network = "core" if level == 1 else f"level{level}"
        expected = (p * (p / q).log()).sum().item()
        assert expected > 0.1
        assert logged[f"{network}:distillation"].item() == pytest.approx(expected, rel=1e-4)
        assert logged[f"{network}:distillation_tokens"] == batch["ntokens"]


@pytest.mark.parametrize("layerdrop", ["0", "0.5"])
def test_a_core_update_draws_the_dropout_of_one_without_distillation(build: Build, batch: Any, layerdrop: str) -> None:
    """And leaves out the same layers, and moves nothing of the teacher."""
    layerdrops = ["--encoder-layerdrop", layerdrop, "--decoder-layerdrop", layerdrop]
    built = build("--alternate", *DISTILLED, *layerdrops)
    distilled = step(built, batch, 1)
    assert gradients_of(built)
    assert not [name for name in gradients_of(built) if "extension_" in name]
    built.task.distillation = None
    plain = step(built, batch, 1)
    assert "core:distillation" not in plain
    assert torch.equal(plain["core:loss"], distilled["core:loss"])


def test_a_weight_of_nearly_nothing_changes_nothing(build: Build, batch: Any) -> None:
    """The gradients of a training without distillation, with LayerDrop as with dropout."""
    layerdrops = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
    built = build("--alternate", *DISTILLED, *layerdrops, "--distillation-weight", "1e-12")
    step(built, batch, 1)
    distilled = gradients_of(built)
    built.task.cfg.distillation_weight = 0.0
    step(built, batch, 1)
    plain = gradients_of(built)
    assert set(plain) == set(distilled)
    for name, gradient in plain.items():
        assert torch.equal(distilled[name], gradient), name


@pytest.mark.parametrize("scheme", ["alternate", "slimmable"])
def test_ignored_prefixes_are_not_distilled(build: Build, batch: Any, scheme: str) -> None:
    """--ignore-prefix-size leaves out as many target tokens of the divergence as of the loss."""
    start = ["--dropout", "0", "--init-super", "stock"]  # as its core the super-network would diverge from none
    built = build("--scheme", scheme, *start, *DISTILLED, "--ignore-prefix-size", "2")
    seen = passes_of(built.model)
    logged = step(built, batch, 1)
    counted = (batch["target"] != 1)[:, 2:]
    p, q = ((logits / 2).double().softmax(-1)[:, 2:][counted] for _, _, logits in seen)
    assert logged["core:distillation"].item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-4)
    assert logged["core:distillation_tokens"] == counted.sum()


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        (
            ["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"],
            ["--adaptive-softmax-cutoff", "40,80"],
            r"--distillation-weight is 0\.5 and --adaptive-softmax-cutoff is \[40, 80\]; .* leave one of them out",
        ),
        (
            ["--criterion", "label_smoothed_cross_entropy_with_rdrop", "--rdrop-alpha", "1"],
            [],
            r"--distillation-weight is 0\.5 and --rdrop-alpha is 1\.0, which has every sentence twice",
        ),
    ],
)
def test_losses_that_cannot_be_distilled(
    build: Build, batch: Any, criterion: list[str], options: list[str], message: str
) -> None:
    """They are refused at start, and train without distillation."""
    choices = {"training": [*criterion, "--max-tokens", "400", "--cpu"], "arch": UNSHARED}
    small = ["--alternate", "--small-ratio", "0.25", *options]
    with pytest.raises(ValueError, match=message):
        build(*small, "--distillation-weight", "0.5", **choices)
    built = build(*small, **choices)
    assert step(built, batch, 1)["core:loss"] > 0
    assert gradients_of(built)


def test_the_teacher_gets_no_gradient_in_a_slimmable_update(build: Build, batch: Any) -> None:
    built = build("--scheme", "slimmable", *DISTILLED)
    step(built, batch, 0)
    distilled = gradients_of(built)
    built.task.distillation = None
    step(built, batch, 0)
    plain = gradients_of(built)
    assert not torch.equal(plain["encoder.layers.0.fc1.core_u"], distilled["encoder.layers.0.fc1.core_u"])
    for name, gradient in plain.items():
        assert "extension_" not in name or torch.equal(gradient, distilled[name]), name


@pytest.mark.parametrize("scheme", ["alternate", "slimmable"])
def test_autocast(build: Build, batch: Any, scheme: str) -> None:
    """A pass without gradient must not leave its bfloat16 weights to the pass with one."""
    built = build("--scheme", scheme, "--dropout", "0", *DISTILLED)
    expected, plain = step(built, batch, 1), gradients_of(built)
    built = build("--scheme", scheme, "--dropout", "0", "--autocast", "bfloat16", *DISTILLED)
    actual, lower = step(built, batch, 1), gradients_of(built)
    assert actual["core:distillation"].dtype == torch.float32
    assert actual["core:loss"] != expected["core:loss"]
    assert set(plain) == set(lower)
    for name, gradient in plain.items():
        if not name.endswith(NOISE):
            assert (gradient - lower[name]).norm() < 0.1 * gradient.norm(), name


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
    built = build("--alternate", *DISTILLED)
    task, criterion = built.task, built.criterion
    worker = {"core:distillation": torch.tensor(6.0), "core:distillation_tokens": 10, "core:ntokens": 10}
    base = {"loss": 1.0, "nll_loss": 1.0, "ntokens": 10, "nsentences": 1, "sample_size": 10}
    core = worker | {f"core:{key}": value for key, value in base.items()}
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

"""``--step-scale``: α_t of Theorem 1 as the length of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer
from torch import Tensor, nn

from fairseq_ats.optim.mask import ElementMask
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModel
from fairseq_ats.theory.criteria import GradientProducts

Build = Callable[..., SimpleNamespace]

ATS = "--alternate --small-ratio 0.25 --dropout 0 --init-super stock --criteria-interval".split()


def test_lemma_3() -> None:
    """f = ½ xᵀAx, exact gradients, random masks with x̃ = p ⊙ x and γ = α_t / L: f(x⁺) ≤ f(x) − α_t² ‖p∇f(x̃)‖² / 2L.

    At each of 1,000 steps; float64. Where α_t is negative the step has length 0.
    """
    generator = torch.Generator().manual_seed(6)
    root = torch.randn(12, 12, generator=generator).double()
    a = root @ root.T / 12 + 0.01 * torch.eye(12).double()
    smoothness = float(torch.linalg.eigvalsh(a)[-1])
    x = nn.Parameter(torch.randn(12, generator=generator).double())
    optimizer = SGDForPartitionedModel([x], lr=1 / smoothness)
    without_step = 0
    for _ in range(1000):
        p = torch.rand(12, generator=generator) < 0.5
        if not p.any():
            continue
        g, h = (a @ x).detach() * p, (a @ (p * x)).detach() * p
        found = GradientProducts(float((a @ x).detach().square().sum()), float(g @ g), float(h @ h), float(g @ h))
        before, alpha = float(x @ a @ x) / 2, max(0.0, found.alpha_t)
        without_step += alpha == 0
        x.grad = h
        with optimizer.masked(ElementMask({x: p}), alpha):
            optimizer.step()
        assert float(x @ a @ x) / 2 <= before - alpha**2 * float(h @ h) / (2 * smoothness) + 1e-12 * before
    assert 0 < without_step < 1000


def steps(built: SimpleNamespace, batch: Any, count: int) -> tuple[Trainer, list[dict[str, Tensor]]]:
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    states = [{n: p.detach().clone() for n, p in built.model.named_parameters()}]
    for _ in range(count):
        trainer.train_step([batch])
        states.append({n: p.detach().clone() for n, p in built.model.named_parameters()})
    return trainer, states


def test_only_the_core_updates_are_scaled(build: Build, batch: Any) -> None:
    found = {}
    for scale in ("1", "0.25"):
        _, found[scale] = steps(build(*ATS, "0", "--step-scale", scale), batch, 2)
    name = "encoder.layers.0.fc1.core_u"
    for state, other in zip(found["1"][:2], found["0.25"][:2], strict=True):
        assert torch.equal(state[name], other[name])
    moved, less = (found[scale][2][name] - found[scale][1][name] for scale in ("1", "0.25"))
    torch.testing.assert_close(less, 0.25 * moved, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scheme", [[], ["--scheme", "dropout", "--scheme-args", '{"keep_prob":0.5,"unit":"weight"}']])
def test_alpha_is_that_of_the_last_measurement(build: Build, batch: Any, scheme: list[str]) -> None:
    """As a number it makes the same step."""
    options = [*ATS, "2"] if not scheme else [*scheme, *ATS[1:], "2"]
    trainer, measured = steps(build(*options, "--step-scale", "alpha"), batch, 2)
    alphas = trainer.task.criteria.alphas
    (alpha,) = alphas.values()
    assert 0 < alpha < 1
    assert set(alphas) == ({0} if scheme else {1})
    _, given = steps(build(*options, "--step-scale", str(alpha)), batch, 2)
    for name, value in given[2].items():
        torch.testing.assert_close(measured[2][name], value, rtol=1e-6, atol=1e-9)


def test_a_negative_alpha_makes_no_step(build: Build, batch: Any) -> None:
    """Weights stay; moments move."""
    built = build(*ATS, "1000", "--step-scale", "alpha")
    trainer, _ = steps(built, batch, 1)
    built.task.criteria.alphas[1] = -0.3
    name, p = next((n, p) for n, p in built.model.named_parameters() if n.endswith("fc1.core_u"))
    before, moment = p.detach().clone(), trainer.optimizer.optimizer.state[p]["exp_avg"].clone()
    trainer.train_step([batch])
    assert torch.equal(p, before), name
    assert not torch.equal(trainer.optimizer.optimizer.state[p]["exp_avg"], moment)


def test_a_resumed_run_has_the_saved_alpha(build: Build, batch: Any, tmp_path: Path) -> None:
    """Measured in updates 0 and 3, resumed before update 1."""
    options = [*ATS, "3", "--step-scale", "alpha"]
    _, whole = steps(build(*options), batch, 2)
    stopped, _ = steps(build(*options), batch, 1)
    stopped.consolidate_optimizer()
    stopped.save_checkpoint(str(tmp_path / "1.pt"), {"train_iterator": {"epoch": 1}})
    again = build("--restore-file", str(tmp_path / "1.pt"), "--small-ratio", "0.25", "--dropout", "0", *ATS[-1:], "3")
    resumed = Trainer(again.cfg, again.task, again.model, again.criterion)
    resumed.load_checkpoint(str(tmp_path / "1.pt"))
    resumed.train_step([batch])
    for name, p in again.model.named_parameters():
        assert torch.equal(p, whole[2][name]), name

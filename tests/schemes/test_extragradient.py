"""``--scheme extragradient``: Korpelevich's step, on what the trainer would step with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.modules import PartitionedLinear
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.extragradient import Extragradient
from fairseq_ats.schemes.points import Point
from tests.support.plain_gradients import gradients_at, softmax_in_float64
from tests.support.resumed import check_resumed
from tests.support.scheme_updates import check_updates

Build = Callable[..., SimpleNamespace]

SAME = ["--scheme", "extragradient", "--scheme-args", '{"step": 0.05}']
PAST = ["--scheme", "extragradient", "--scheme-args", '{"step": 0.05, "gradient": "past"}']


@pytest.mark.parametrize("options", [SAME, PAST], ids=["same", "past"])
def test_updates_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    """Adam on ∇f(x − η∇f(x)), or on ∇f(x − η g) with g of the update before; means over two micro-batches."""
    softmax_in_float64(monkeypatch)
    built = build(*options, "--small-ratio", "0.25", "--dropout", "0", "--init-super", "stock")
    model = built.model.double()
    past: dict[str, Tensor] = {}

    def mean_gradients(values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = gradients_at(model, built.criterion, [batch, batch], lambda name, _: values[name])
        return {name: g / (2 * batch["ntokens"]) for name, g in found.items()}

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ahead = mean_gradients(values) if options is SAME else past
        gradients = mean_gradients({name: x - 0.05 * ahead.get(name, 0.0) for name, x in values.items()})
        past.update(gradients)
        return gradients, {name: torch.tensor(True) for name in values}

    check_updates(built, [batch, batch], by_hand)


def test_both_gradients_are_clipped(build: Build, batch: Any) -> None:
    """In float32: the step is of a gradient of the norm of --clip-norm, at a point that is as far as η times it."""
    built = build(*SAME, "--small-ratio", "0.25", "--dropout", "0", "--clip-norm", "0.1")
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    seen: list[Point] = []
    of = built.task.scheme._ahead
    built.task.scheme._ahead = lambda gradients: seen.append(of(gradients)) or seen[-1]
    trainer.train_step([batch])
    (point,) = seen
    moved = torch.cat([d.flatten() for d in point.offset.values()])
    stepped = torch.cat([p.grad.flatten() for p in built.model.parameters()])
    assert float(moved.norm()) == pytest.approx(0.05 * 0.1, rel=1e-4)
    assert float(stepped.norm()) == pytest.approx(0.1, rel=1e-4)
    assert not torch.allclose(moved, -0.05 * stepped, rtol=1e-3)


def test_dropout_is_the_same_in_both_passes(build: Build, batch: Any) -> None:
    """As stock dropout would have drawn it; afterwards PyTorch's generator is where one pass leaves it."""
    built = build(*SAME, "--small-ratio", "0.25", "--dropout", "0.3")
    states: list[Tensor] = []
    built.model.register_forward_hook(lambda *_: states.append(torch.get_rng_state()))
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    trainer.train_step([batch])
    after = torch.get_rng_state()
    assert len(states) == 2
    assert torch.equal(states[0], states[1])
    plain = build("--small-ratio", "0.25", "--dropout", "0.3")
    Trainer(plain.cfg, plain.task, plain.model, plain.criterion).train_step([batch])
    assert torch.equal(after, torch.get_rng_state())


def test_a_quadratic() -> None:
    """f = ½ xᵀAx: T steps of SGD are (I − γA(I − ηA))ᵀ x₀, to the power T; float64."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(5, 5, generator=generator).double()
    a, eta, gamma, steps = root @ root.T / 5, 0.1, 0.05, 40
    model = PartitionedLinear.from_linear(nn.Linear(5, 1, bias=False).double(), 0.5, dim=0)
    x = model.core_weight
    scheme = Extragradient(step=eta)
    scheme.max_level = 1
    scheme.attach(ModelParts({"x": x}, {}, [], [], [], []), Draws(1))
    start = x.detach().clone()

    def take_gradients(point: Point) -> None:
        with point.of(model):
            x.grad = x.detach() @ a

    for number in range(steps):
        update = scheme.update(number)
        take_gradients(update.points[0])
        scheme.before_step(update, take_gradients)
        x.data -= gamma * x.grad
    one = torch.eye(5).double()
    matrix = torch.linalg.matrix_power(one - gamma * a @ (one - eta * a), steps)
    torch.testing.assert_close(x.detach(), start @ matrix.T, rtol=1e-12, atol=1e-12)


def test_the_past_gradient_is_resumed(build: Build, batch: Any, tmp_path: Path) -> None:
    options = [*PAST, "--small-ratio", "0.25", "--dropout", "0.1"]

    check_resumed(build, options, batch, tmp_path / "2.pt", stop=2, end=4)
    resumed = build(*options, "--restore-file", str(tmp_path / "2.pt"))
    resumed.model.double()  # fairseq moves the model after its state is there
    (ahead,) = resumed.task.scheme.update(2).points
    assert {offset.dtype for offset in ahead.offset.values()} == {torch.float64}


def test_a_run_that_goes_on_with_its_own_gradient(build: Build, batch: Any, tmp_path: Path) -> None:
    """The gradient of an earlier update is no part of it."""
    options = [*PAST, "--small-ratio", "0.25"]
    check_resumed(build, options, batch, tmp_path / "1.pt", stop=1, end=2)
    same = ["--scheme", "extragradient", "--scheme-args", '{"step": 0.1}', "--small-ratio", "0.25"]
    task = build(*same, "--restore-file", str(tmp_path / "1.pt")).task
    assert task.scheme.update(1).points == (task.scheme.whole,)


def test_a_checkpoint_without_the_past_gradient(build: Build, batch: Any, tmp_path: Path) -> None:
    built = build("--small-ratio", "0.25")
    run = Trainer(built.cfg, built.task, built.model, built.criterion)
    run.train_step([batch])
    run.consolidate_optimizer()
    run.save_checkpoint(str(tmp_path / "1.pt"), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}})
    with pytest.raises(ValueError, match="the checkpoint was not trained with --scheme extragradient and past"):
        build(*PAST, "--small-ratio", "0.25", "--restore-file", str(tmp_path / "1.pt"))

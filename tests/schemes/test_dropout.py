"""``--scheme dropout``: Algorithm 1 with a random mask, and validation of random parts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer
from torch import Tensor

from tests.support.plain_gradients import by_name, gradients_at, softmax_in_float64
from tests.support.scheme_updates import check_updates

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25".split()


@pytest.mark.parametrize(
    "arguments",
    [
        '{"keep_prob": 0.6}',
        '{"keep_prob": 0.5, "scale": "inverted"}',
        '{"keep_prob": 0.5, "unit": "weight", "scale": "inverted"}',
    ],
)
def test_updates_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    """The gradient of x ↦ f(s ⊙ x), and each coordinate runs Adam on the updates that keep it; two micro-batches."""
    softmax_in_float64(monkeypatch)
    options = ["--scheme", "dropout", "--scheme-args", arguments, "--dropout", "0", "--weight-decay", "0.1"]
    built = build(*SMALL_WIDTH, *options)
    model = built.model.double()
    scheme, kept = built.task.scheme, {}

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        kept[number] = s = by_name(model, scheme.update(number).points[0].reference.scales)
        ones = {name: torch.ones(()).double() for name in values}
        found = gradients_at(model, built.criterion, [batch, batch], lambda name, _: values[name] * (ones | s)[name])
        gradients = {name: g * (ones | s)[name] / (2 * batch["ntokens"]) for name, g in found.items()}
        return gradients, {name: (ones | s)[name] > 0 for name in values}

    check_updates(built, [batch, batch], by_hand)
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_what_neurons_own(build: Build) -> None:
    """Both sides of a hidden neuron and of a key/query dimension, the same in every head; the scale once a term."""
    options = ["--scheme", "dropout", "--scheme-args", '{"keep_prob": 0.5, "scale": "inverted"}']
    built = build(*SMALL_WIDTH, *options)
    scales = by_name(built.model, built.task.scheme.update(3).points[0].reference.scales)
    layer = "encoder.layers.0."
    fc1, fc2 = (
        torch.cat([scales[f"{layer}{name}.{block}_weight"].flatten() for block in ("core", "extension")])
        for name in ("fc1", "fc2")
    )
    assert fc1.shape == (64,)
    assert set(fc1.tolist()) == {0.0, 1.0}
    assert torch.equal(fc2, 2 * fc1)
    bias = torch.cat([scales[f"{layer}fc1.{block}_bias"] for block in ("core", "extension")])
    assert torch.equal(bias, fc1)
    heads = {}
    for name in ("q_proj", "k_proj"):
        # 4 heads of 8 dimensions, 2 of them in the core.
        core, rest = (scales[f"{layer}self_attn.{name}.{block}_bias"].view(4, -1) for block in ("core", "extension"))
        heads[name] = torch.cat([core, rest], dim=1)
        assert (heads[name] == heads[name][0]).all()
    assert torch.equal(heads["q_proj"], 2 * heads["k_proj"])
    owned = [name for name in scales if not any(part in name for part in ("fc1", "fc2", "q_proj", "k_proj"))]
    assert not owned
    assert not [name for name in scales if name.endswith("fc2.core_bias")], "of no neuron"


def test_keeping_everything_is_standard_training(build: Build, batch: Any) -> None:
    """Bit for bit, stock dropout included."""
    states = []
    for options in ([], ["--scheme", "dropout", "--scheme-args", '{"keep_prob": 1}']):
        built = build(*SMALL_WIDTH, *options, "--dropout", "0.3")
        trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
        for _ in range(2):
            trainer.train_step([batch])
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_the_masked_gradient_keeps_its_share_of_the_norm(build: Build) -> None:
    """E ‖p ⊙ g‖² = μ ‖g‖²: the mean of 300 draws, within 4 standard errors."""
    options = ["--scheme", "dropout", "--scheme-args", '{"keep_prob": 0.3, "unit": "weight"}']
    built = build(*SMALL_WIDTH, *options)
    generator = torch.Generator().manual_seed(1)
    weights = built.task.scheme.parts.weights.values()
    gradient = {p: torch.randn(p.shape, generator=generator) for p in list(weights)[:6]}
    whole = sum(float(g.square().sum()) for g in gradient.values())
    shares = []
    for number in range(300):
        mask = built.task.scheme.update(number).mask
        shares.append(sum(float((g * mask.of(p)).square().sum()) for p, g in gradient.items()) / whole)
    found = torch.tensor(shares)
    assert abs(found.mean() - 0.3) < 4 * found.std() / 300**0.5

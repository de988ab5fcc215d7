"""``--scheme layerwise`` and ``--freeze``: what does not move, and what that saves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer

from tests.support.scheme_updates import updates

Build = Callable[..., SimpleNamespace]


def moving(built: SimpleNamespace, number: int) -> set[int]:
    scheme = built.task.scheme
    mask = scheme.update(number).mask
    found = [{mask.of(p) for p in layer} for layer in scheme.parts.layers]
    assert all(len(one) == 1 for one in found)
    return {n for n, one in enumerate(found) if one == {True}}


def test_orders(build: Build) -> None:
    """Of 2 + 2 layers, with two updates each."""
    found = {}
    for order in ("cyclic", "growing", "random"):
        built = build("--scheme", "layerwise", "--scheme-args", f'{{"order": "{order}", "updates": 2}}')
        found[order] = [moving(built, number) for number in range(10)]
    assert found["cyclic"] == [{n} for n in (0, 0, 1, 1, 2, 2, 3, 3, 0, 0)]
    assert found["growing"] == [{*range(n)} for n in (1, 1, 2, 2, 3, 3, 4, 4, 4, 4)]
    assert found["random"][::2] == found["random"][1::2]
    assert all(len(one) == 1 for one in found["random"])
    assert len({*map(tuple, found["random"])}) > 1


def test_every_parameter_belongs_to_one_layer(build: Build) -> None:
    built = build("--scheme", "layerwise", "--encoder-normalize-before", "--encoder-learned-pos")
    layers = built.task.scheme.parts.layers
    names = {p: name for name, p in built.model.named_parameters()}
    assert sorted(names[p] for layer in layers for p in layer) == sorted(names.values())
    assert {names[p] for p in layers[0] if "layers." not in names[p]} == {
        "encoder.embed_tokens.weight",
        "encoder.embed_positions.weight",
    }
    assert {names[p] for p in layers[-1] if "layers." not in names[p]} == {
        "encoder.layer_norm.weight",
        "encoder.layer_norm.bias",
    }


@pytest.mark.parametrize("options", [["--scheme", "layerwise"], ["--alternate", "--freeze", "embed|encoder.*fc1"]])
def test_the_rest_stays_bit_for_bit(build: Build, batch: Any, options: list[str]) -> None:
    """With weight decay and moments; and the gradients that are not needed are not computed."""
    built = build(*options, "--weight-decay", "0.1", "--init-super", "stock")
    parameters = dict(built.model.named_parameters())
    frozen = set()
    if "--freeze" in options:
        frozen = {name for name in parameters if "embed" in name or ("encoder" in name and "fc1" in name)}
        assert frozen
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    for number in range(6):
        before = {name: p.detach().clone() for name, p in parameters.items()}
        state = {p: dict(trainer.optimizer.optimizer.state[p]) for p in parameters.values()}
        mask = built.task.scheme.update(number).mask
        fixed = frozen | {name for name, p in parameters.items() if mask.of(p) is False}
        trainer.train_step([batch])
        for name, p in parameters.items():
            assert torch.equal(p, before[name]) == (name in fixed) or name.endswith("bias"), (number, name)
            steps = [s.get("step", 0) for s in (state[p], trainer.optimizer.optimizer.state[p])]
            assert steps[0] + (name not in fixed) == steps[1], (number, name)
            assert not (name in fixed and p.requires_grad), (number, name)


def test_the_backward_pass_ends_at_the_lowest_layer_that_moves(build: Build, batch: Any) -> None:
    built = build("--scheme", "layerwise", "--scheme-args", '{"order": "cyclic"}')
    seen: list[int] = []
    for n, layer in enumerate([*built.model.encoder.layers, *built.model.decoder.layers]):
        layer.fc1.register_full_backward_hook(lambda *_, n=n: seen.append(n))
    expected = {0: {0, 1, 2, 3}, 1: {1, 2, 3}, 2: {2, 3}, 3: {3}}
    for number in updates(built, [batch], 4):
        if number:
            assert set(seen) == expected[number - 1]
        seen.clear()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("embedding", "--freeze is embedding, which finds no parameter; some names: encoder.embed_tokens.weight, "),
        (".", r"--freeze is \., which finds every parameter"),
        ("(", r"--freeze is \(; allowed: a regular expression"),
    ],
)
def test_patterns_that_freeze_nothing(build: Build, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("--freeze", pattern)

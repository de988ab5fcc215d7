"""Dropout of the core's own: what each network drops, that the others draw what they drew, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim

from fairseq_ats.modules.levels import use_level
from tests.support import images

Build = Callable[..., SimpleNamespace]

# Three probabilities that differ, in all places where a Transformer has dropout.
MODEL = ("--small-ratio", "0.25", "--dropout", "0.3", "--attention-dropout", "0.2", "--activation-dropout", "0.4")
CORE = ("--small-ratio", "0.25", "--dropout", "0.15", "--attention-dropout", "0.15", "--activation-dropout", "0.15")


def gradients(built: SimpleNamespace, batch: dict[str, Any], levels: list[int]) -> dict[str, torch.Tensor]:
    """By a plain loop over networks, of a model that knows nothing of other networks' dropout."""
    built.model.zero_grad()
    built.model.train()
    for level in levels:
        with use_level(built.model, level):
            built.criterion(built.model, batch)[0].backward()
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


def update(built: SimpleNamespace, batch: dict[str, Any], number: int) -> dict[str, torch.Tensor]:
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    adam.zero_grad()
    torch.manual_seed(5)
    built.task.train_step(batch, built.model, built.criterion, adam, number)
    return {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("module_name", ["PartitionedRankLinear", "PartitionedLinear"])
@pytest.mark.parametrize(("scheme", "number"), [("alternate", 0), ("alternate", 1), ("slimmable", 0)])
def test_each_network_drops_as_a_model_of_its_own(
    build: Build, batch: Any, module_name: str, scheme: str, number: int
) -> None:
    """One model has the super-network's dropout, another with the same weights the core's; the draws follow."""
    kind = ("--partitioned-linear-module-name", module_name, "--scheme", scheme)
    found = update(build(*MODEL, *kind, "--core-dropout", "0.15"), batch, number)
    of_super, of_core = build(*MODEL, *kind), build(*CORE, *kind)
    of_core.model.load_state_dict(of_super.model.state_dict())
    torch.manual_seed(5)
    expected: dict[str, torch.Tensor] = {}
    for built, level in ((of_super, 2), (of_core, 1)):
        if scheme == "slimmable" or level == 2 - number:
            for name, gradient in gradients(built, batch, [level]).items():
                expected[name] = gradient if name not in expected else expected[name] + gradient
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected.get(name, torch.zeros_like(gradient)), msg=name)


def test_no_dropout_draws_nothing(build: Build, batch: Any) -> None:
    """And the core may use kernels that know no dropout. Where the model has none, the core has none."""
    built = build(*MODEL, "--alternate", "--core-dropout", "0")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = gradients(built, batch, [1])
    assert torch.equal(torch.get_rng_state(), before)
    partly = build("--small-ratio", "0.25", "--dropout", "0.3", "--alternate", "--core-dropout", "0.2")
    probabilities = {name: m.p for name, m in partly.model.named_modules() if name.endswith("dropout_module")}
    with use_level(partly.model, 1):
        of_core = {name: m.p for name, m in partly.model.named_modules() if name.endswith("dropout_module")}
    assert set(probabilities.values()) == {0.3, 0.0}
    assert of_core == {name: 0.2 if p else 0.0 for name, p in probabilities.items()}
    assert first


def test_levels_between_keep_the_models(build: Build) -> None:
    model = build("--small-ratio", "0.125,0.5", "--dropout", "0.3", "--alternate", "--core-dropout", "0").model
    found = []
    for level in (1, 2, 3):
        with use_level(model, level):
            found.append(model.encoder.dropout_module.p)
    assert found == [0.0, 0.3, 0.3]


def test_images(tmp_path: Path, digits: Path) -> None:
    """Channels of the core are not dropped, those of the super-network are."""
    built = images.build(digits, "--dropout", "0.5", "--alternate", "--core-dropout", "0")
    plain = images.build(digits, "--alternate")
    plain.model.load_state_dict(built.model.state_dict())
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for level in (1, 2):
        outputs = []
        for model in (built.model.train(), plain.model.train()):
            torch.manual_seed(2)
            with use_level(model, level), torch.no_grad():
                outputs.append(model(x))
        assert torch.equal(*outputs) == (level == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alternate", "--core-dropout", "1"], r"--core-dropout is 1\.0; allowed: 0 <= P < 1"),
        (["--alternate", "--core-dropout", "nan"], "--core-dropout is nan; allowed: 0 <= P < 1"),
        (["--core-dropout", "0.1"], r"--core-dropout is 0\.1, which needs --scheme alternate or slimmable"),
        (
            ["--alternate", "--core-dropout", "0.1", "--dropout", "0"],
            r"--core-dropout is 0\.1, which takes the place of the model's dropout in its core, and the model has none",
        ),
    ],
)
def test_refused(build: Build, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("--small-ratio", "0.25", *options)

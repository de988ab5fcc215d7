"""``--scheme prune``: how much is pruned, what moves, and that a resumed run prunes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer
from torch import Tensor

from fairseq_ats.architectures.importance import order_by_importance_
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName
from tests.support.plain_gradients import gradients_at, softmax_in_float64
from tests.support.resumed import check_resumed
from tests.support.scheme_updates import check_updates

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --dropout 0".split()


def prune(**arguments: Any) -> list[str]:
    text = ", ".join(f'"{name}": {value}' for name, value in arguments.items())
    return ["--scheme", "prune", "--scheme-args", f"{{{text}}}"]


def test_the_share_rises_by_a_cubic() -> None:
    options = SchemeOptions(SchemeName.PRUNE, arguments='{"sparsity": 0.8, "begin": 100, "end": 300}')
    shares = [options.scheme_of(1).sparsity_at(number) for number in (0, 100, 200, 300, 9999)]
    assert shares == pytest.approx([0, 0, 0.8 * (1 - 0.5**3), 0.8, 0.8])
    wrong = SchemeOptions(SchemeName.PRUNE, arguments='{"sparsity": 0.8, "begin": 300, "end": 300}')
    assert wrong.problems(2) == ["--scheme-args has end 300; allowed: more than begin (300)"]


@pytest.mark.parametrize("unit", ["weight", "neuron"])
@pytest.mark.parametrize("feedback", ["true", "false"])
def test_updates_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, unit: str, feedback: str) -> None:
    """The largest are found by sorting, before updates 0 and 2. With feedback ∇f(x̃) moves all of x."""
    softmax_in_float64(monkeypatch)
    options = prune(sparsity=0.5, end=1, every=2, unit=f'"{unit}"', feedback=feedback)
    built = build(*SMALL_WIDTH, *options, "--weight-decay", "0.1")
    model, scheme = built.model.double(), built.task.scheme
    one = torch.ones(()).double()
    s: dict[str, Tensor] = {}

    def largest_weights(values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        weights = {n: values[n] for n in scheme.parts.weights}
        sizes = torch.cat([x.abs().flatten() for x in weights.values()]).sort(descending=True).values
        threshold = sizes[round(share * len(sizes)) - 1]
        return {name: (x.abs() >= threshold).double() for name, x in weights.items()}

    def largest_neurons(values: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        found = {}
        for side in ("encoder", "decoder"):
            for n in (0, 1):
                name = f"{side}.layers.{n}."
                blocks = [f"{name}fc1.{block}" for block in ("core", "extension")]
                u = torch.cat([torch.cat([values[f"{b}_weight"], values[f"{b}_bias"][:, None]], 1) for b in blocks])
                columns = [f"{name}fc2.{block}_weight" for block in ("core", "extension")]
                importance = u.norm(dim=1) * torch.cat([values[c] for c in columns], 1).norm(dim=0)
                kept = torch.zeros_like(importance)
                kept[importance.argsort(descending=True)[: round(share * len(kept))]] = 1
                core = values[columns[0]].shape[1]
                for part, block, column in zip((kept[:core], kept[core:]), blocks, columns, strict=True):
                    found[column] = part[None]
                    if feedback == "false":
                        found |= {f"{block}_weight": part[:, None], f"{block}_bias": part}
        return found

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if number % 2 == 0:
            s.clear()
            s.update({"weight": largest_weights, "neuron": largest_neurons}[unit](values, 1.0 if number == 0 else 0.5))
        found = gradients_at(model, built.criterion, [batch], lambda name, _: values[name] * s.get(name, one))
        gradients = {name: g / batch["ntokens"] for name, g in found.items()}
        if feedback == "true":
            return gradients, {name: torch.tensor(True) for name in values}
        gradients = {name: g * s.get(name, one) for name, g in gradients.items()}
        return gradients, {name: s.get(name, one) > 0 for name in values}

    check_updates(built, [batch], by_hand, count=4)


def test_what_is_pruned_returns_with_feedback_only(build: Build, batch: Any) -> None:
    """Without feedback its weights stay bit for bit, in spite of decay and moments; with it they move."""
    for feedback in (True, False):
        options = prune(sparsity=0.5, end=1, every=1, feedback=str(feedback).lower())
        built = build(*SMALL_WIDTH, *options, "--weight-decay", "0.1")
        columns = [getattr(built.model.encoder.layers[0].fc2, f"{block}_weight") for block in ("core", "extension")]
        trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
        for number in range(4):
            before = torch.cat([p.detach().clone() for p in columns], 1)
            trainer.train_step([batch])
            pruned = ~built.task.scheme.state_dict()["encoder.layers.0"]
            assert int(pruned.sum()) == (32 if number else 0)
            moved = (torch.cat(columns, 1) != before).any(0)
            assert moved[~pruned].all()
            assert not number or bool(moved[pruned].any()) == feedback


def test_importance_is_that_of_the_warm_start(build: Build) -> None:
    """Of 16 core neurons of a model in the order of importance, each is as important as any of the extension."""
    stock = build(task="translation", optimizer="adam").model
    order_by_importance_(stock)
    built = build(*SMALL_WIDTH, *prune(sparsity=0.5, end=1))
    built.task.partition_model_(stock, built.task.partition, initialise=True)
    for group in built.task.model_parts(stock).hidden:
        found = group.importance()
        assert torch.equal(found, found.sort(descending=True).values)
        assert float(found[0]) > float(found[-1])


def test_a_resumed_run_prunes_the_same(build: Build, batch: Any, tmp_path: Path) -> None:
    """Between two choices: what is pruned comes from the checkpoint, since the weights have moved."""
    options = [*SMALL_WIDTH, *prune(sparsity=0.5, end=2, every=3)]

    resumed = check_resumed(build, options, batch, tmp_path / "5.pt", stop=5, end=6)
    kept = resumed.task.scheme.state_dict()
    assert {int(chosen.sum()) for chosen in kept.values()} == {32, 24}, "half of 64 and of 48"


def saved_run(built: SimpleNamespace, batch: Any, path: Path) -> str:
    run = Trainer(built.cfg, built.task, built.model, built.criterion)
    run.train_step([batch])
    run.consolidate_optimizer()
    run.save_checkpoint(str(path), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}})
    return str(path)


def test_a_run_that_goes_on_with_another_scheme(build: Build, batch: Any, tmp_path: Path) -> None:
    """What is pruned is no state of it; and neurons are no weights."""
    path = saved_run(build(*SMALL_WIDTH, *prune(sparsity=0.5, end=1)), batch, tmp_path / "1.pt")
    extragradient = ["--scheme", "extragradient", "--scheme-args", '{"step": 0.1}']
    assert not build(*SMALL_WIDTH, *extragradient, "--restore-file", path).task.scheme.state_dict()
    with pytest.raises(ValueError, match="--scheme-args has unit weight, and the checkpoint's run pruned other parts"):
        build(*SMALL_WIDTH, *prune(sparsity=0.5, end=1, unit='"weight"'), "--restore-file", path)


def test_a_checkpoint_of_another_scheme(build: Build, batch: Any, tmp_path: Path) -> None:
    saved_run(build(*SMALL_WIDTH), batch, tmp_path / "1.pt")
    with pytest.raises(ValueError, match="the checkpoint was not trained with --scheme prune: it does not say"):
        build(*SMALL_WIDTH, *prune(sparsity=0.5, end=1), "--restore-file", str(tmp_path / "1.pt"))

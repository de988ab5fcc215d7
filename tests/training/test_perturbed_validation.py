"""``--perturbed-validation``: the perturbed network is validated, logged and kept at its best as one more network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from tests.support.plain_gradients import by_name

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --dropout 0".split()
DROPOUT = ["--scheme", "dropout", "--scheme-args", '{"keep_prob": 0.5}']
PRUNE = ["--scheme", "prune", "--scheme-args", '{"sparsity": 0.5, "end": 1, "every": 1, "unit": "weight"}']


@pytest.fixture(autouse=True)
def _own_metrics() -> Iterator[None]:
    metrics.reset()
    yield
    metrics.reset()


@torch.no_grad()
def loss_by_hand(built: SimpleNamespace, batch: Any, scales: dict[str, torch.Tensor]) -> float:
    """Of a model whose weights are multiplied by hand; bits a token."""
    own = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    for name, p in built.model.named_parameters():
        p.mul_(scales.get(name, torch.ones(())))
    built.model.eval()
    loss, size, _ = built.criterion(built.model, batch)
    for name, p in built.model.named_parameters():
        p.copy_(own[name])
    return float(loss) / size / torch.tensor(2.0).log().item()


@pytest.mark.parametrize("options", [PRUNE, [*DROPOUT, "--perturbed-validation", "2"]], ids=["prune", "dropout"])
def test_its_loss_is_that_of_a_network_made_by_hand(build: Build, batch: Any, options: list[str]) -> None:
    """The mean over the points, which are the same after further updates."""
    built = build(*SMALL_WIDTH, *options)
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    drawn = []
    for _ in range(2):
        trainer.train_step([batch])
        points = built.task.scheme.validation_points(2)
        drawn.append([by_name(built.model, point.reference.scales) for point in points])
        expected = [loss_by_hand(built, batch, scales) for scales in drawn[-1]]
        found = trainer.valid_step(batch)
        assert float(found["perturbed_loss"]) == pytest.approx(sum(expected) / len(expected), rel=2e-3)  # logged so
        assert {"loss", "core_loss", "perturbed_ppl", "perturbed_nll_loss"} <= set(found)
    assert float(found["perturbed_loss"]) != float(found["loss"])
    if options is not PRUNE:
        assert len(drawn[0]) == 2
        for one, other in zip(*drawn, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert any(not torch.equal(drawn[0][0][name], drawn[0][1][name]) for name in drawn[0][0])


def test_its_best_checkpoint(build: Build) -> None:
    assert [best.metric for best in build(*SMALL_WIDTH, *PRUNE).task.best_of_other_networks] == [
        "perturbed_loss",
        "core_loss",
    ]
    followed = build(*SMALL_WIDTH, *PRUNE, "--best-checkpoint-metric", "perturbed_loss").task.best_of_other_networks
    assert [best.file_name for best in followed] == ["checkpoint_best_core.pt", "checkpoint_best_super.pt"]
    assert [best.metric for best in build(*SMALL_WIDTH, *DROPOUT).task.best_of_other_networks] == ["core_loss"]


def test_a_pruned_network_that_is_not_asked_for(build: Build, batch: Any) -> None:
    built = build(*SMALL_WIDTH, *PRUNE, "--perturbed-validation", "0")
    built.task.scheme.update(0)
    output = built.task.valid_step(batch, built.model.eval(), built.criterion)[2]
    assert {name.partition(":")[0] for name in output if ":" in name} == {"core"}


def test_only_a_network_of_the_last_size_is_kept(build: Build, batch: Any) -> None:
    """An earlier one is larger, and would win."""
    arguments = '{"sparsity": 0.5, "end": 3, "every": 1, "unit": "UNIT"}'
    for unit in ("weight", "neuron"):
        built = build(*SMALL_WIDTH, "--scheme", "prune", "--scheme-args", arguments.replace("UNIT", unit))
        best = built.task.best_of_other_networks[0]
        trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
        kept = []
        for number in range(4):
            trainer.train_step([batch])
            built.task.post_validate(built.model, {"perturbed_loss": 1.0 + number, "core_loss": 1.0}, None)
            kept.append(best.state_to_save()["value"])
        assert kept == [None, None, None, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--perturbed-validation", "2"],
            "--perturbed-validation is 2, which needs --scheme dropout or ist or prune or mast",
        ),
        ([*PRUNE, "--perturbed-validation", "-1"], "--perturbed-validation is -1; allowed: 0 or more"),
        ([*DROPOUT, "--best-checkpoint-metric", "perturbed_loss"], "this run has no network perturbed"),
    ],
)
def test_refused(build: Build, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*SMALL_WIDTH, *options)

"""The task of images: its updates, its data, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_ats.architectures.resnet import ResNet10
from fairseq_ats.data.image_folder import DESCRIPTION
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModel
from fairseq_ats.partition.partition import Partition
from tests.support.images import build, state, update


def samples(built: Any, count: int = 6, size: int = 48) -> list[dict[str, Any]]:
    if "train" not in built.task.datasets:
        built.task.load_dataset("train")
    dataset = built.task.dataset("train")
    return [dataset.collater(list(range(size * n, size * (n + 1)))) for n in range(count)]


def test_partition_and_augmentation_of_a_new_run(digits: Path) -> None:
    built = build(digits, task__alternate=True)
    assert isinstance(built.model, ResNet10)
    assert built.task.partition == Partition("PartitionedConv2d", 0.5)
    built.task.load_dataset("train")
    built.task.load_dataset("valid")
    train, valid = built.task.dataset("train"), built.task.dataset("valid")
    assert (train.crop_padding, train.flip, train.seed, train.shuffles) == (1, 0.0, 7, True)
    assert (valid.crop_padding, valid.flip, valid.shuffles) == (0, 0.0, False)
    given = build(digits, task__crop_padding=2, task__flip=0.25, task__small_ratio="0.25,0.5")
    given.task.load_dataset("train")
    assert (given.task.dataset("train").crop_padding, given.task.dataset("train").flip) == (2, 0.25)
    assert given.task.partition.small_ratio == (0.25, 0.5)


def test_batches_have_all_images_in_an_order_of_their_own(digits: Path) -> None:
    task = build(digits).task
    orders = []
    for split, epoch in (("train", 1), ("train", 2), ("valid", 1)):
        task.load_dataset(split)
        batches = task.get_batch_iterator(
            task.dataset(split), max_sentences=7, required_batch_size_multiple=8, epoch=epoch
        )
        orders.append([index for batch in batches.frozen_batches for index in batch])
        assert sorted(orders[-1]) == list(range(len(task.dataset(split))))
        assert len(batches.frozen_batches[0]) == 7
    assert orders[0] != orders[1]


@pytest.mark.parametrize("scheme", ["alternate", "slimmable"])
def test_an_update_moves_what_its_scheme_says(digits: Path, scheme: str) -> None:
    """Through the task: an update of the core leaves the extension's weights, momentum and statistics bit for bit."""
    built = build(digits, task__scheme=scheme, optimizer__weight_decay=0.01)
    batches = samples(built)
    for number, sample in enumerate(batches):
        before = state(built)
        logged = update(built, number, sample)
        after = state(built)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        core_alone = scheme == "alternate" and number % 2 == 1
        both = {name for name in moved if ".core." not in name and "extension" not in name}
        assert any("core_weight" in name for name in both)
        assert any("extension" in name for name in moved) != core_alone
        assert any(".core.running_mean" in name for name in moved) == (core_alone or scheme == "slimmable")
        assert ("core:n_correct" in logged, "n_correct" in logged) == (
            core_alone or scheme == "slimmable",
            not core_alone,
        )


def test_the_test_above_can_fail(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain step after the gradients were filled with zeros moves the extension by momentum and decay."""
    monkeypatch.setattr(SGDForPartitionedModel, "step", torch.optim.SGD.step)
    with pytest.raises(AssertionError):
        test_an_update_moves_what_its_scheme_says(digits, "alternate")


def test_core_updates_are_those_of_the_core_alone(digits: Path) -> None:
    """From the same weights, on the same batches, bit for bit: all that the core has."""
    both = build(digits, task__scheme="alternate", task__core_only_from=1)
    batches = samples(both, 4)
    alone = build(digits, task__scheme="core")
    own = alone.model.state_dict()
    alone.model.load_state_dict({name: v for name, v in both.model.state_dict().items() if name in own}, strict=True)
    for number, sample in enumerate(batches, start=1):
        update(both, number, sample)
        update(alone, number, sample)
    whole = state(both)
    for name, value in state(alone).items():
        assert torch.equal(whole[name], value), name


def test_a_dummy_batch_and_the_monitor_leave_running_statistics(digits: Path) -> None:
    plain = build(digits, task__alternate=True)
    watched = build(digits, task__alternate=True, task__criteria_interval=1)
    batches = samples(plain, 3)
    for number, sample in enumerate(batches):
        update(plain, number, sample)
        watched.model.train()
        watched.task.train_step(sample, watched.model, watched.criterion, watched.optimizer, number, ignore_grad=True)
        watched.optimizer.zero_grad()
        update(watched, number, sample)
    expected = state(plain)
    for name, value in state(watched).items():
        assert torch.equal(value, expected[name]), name


def test_a_validation_is_of_the_whole_model(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers exchange their parts of it before."""
    built, calls = build(digits, task__alternate=True), []
    monkeypatch.setattr(type(built.task.scheme), "make_whole", lambda scheme: calls.append(scheme))
    built.task.begin_valid_epoch(1, built.model)
    assert calls == [built.task.scheme]


def test_criteria_compare_the_networks_as_they_run(digits: Path) -> None:
    """c_norm, c_sim and the inner product, from two separate backward passes over what both networks hold."""
    built = build(digits, task__alternate=True, task__criteria_interval=1, model__width=2)
    built.model.double()
    sample = samples(built, 1)[0]
    sample["net_input"]["images"] = sample["net_input"]["images"].double()
    gradients = {}
    for level in (2, 1):
        with use_level(built.model, level):
            loss = torch.nn.functional.cross_entropy(
                built.model(**sample["net_input"]), sample["target"], reduction="sum"
            )
            found = torch.autograd.grad(loss, list(built.model.parameters()), allow_unused=True)
        gradients[level] = dict(zip(dict(built.model.named_parameters()), found, strict=True))
    shared = [name for name in gradients[2] if gradients[1][name] is not None and gradients[2][name] is not None]
    assert not [name for name in shared if ".core." in name or "extension" in name]

    def norm(level: int, names: Any) -> float:
        return sum(float(gradients[level][name].square().sum()) for name in names) ** 0.5

    whole = norm(2, [name for name, g in gradients[2].items() if g is not None])
    measured: dict[str, float] = {}
    built.task.criteria.log = lambda: None
    update(built, 0, sample)
    measured = built.task.criteria._measured
    assert measured["c_norm"] == pytest.approx(whole / norm(2, shared), rel=1e-4)
    assert measured["c_sim"] == pytest.approx(norm(2, shared) / norm(1, shared), rel=1e-4)


def test_dropout_of_hidden_channels(digits: Path) -> None:
    """An update moves the rows and columns of the kept channels alone, and the monitor measures these masks."""
    arguments = json.dumps({"keep_prob": 0.5, "scale": "inverted"})
    built = build(
        digits, task__scheme="dropout", task__scheme_args=arguments, task__criteria_interval=1, model__norm="none"
    )
    built.task.criteria.log = lambda: None
    for number, sample in enumerate(samples(built, 2)):
        mask = built.task.scheme.update(number).mask
        before = {p: p.detach().clone() for p in built.model.parameters()}
        update(built, number, sample)
        masked = 0
        for p, old in before.items():
            selected = mask.of(p)
            if isinstance(selected, torch.Tensor):
                outside = ~selected.expand(p.shape)
                masked += int(outside.sum())
                assert torch.equal(p[outside], old[outside])
                assert p.ndim == 1 or not torch.equal(p, old)
        assert masked > 0
        measured = built.task.criteria._measured
        assert -1 <= measured["cosine"] <= 1
        assert measured["c_norm"] >= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"task__partitioned_linear_module_name": "PartitionedLinear"},
            "--partitioned-linear-module-name is PartitionedLinear, which is for translation; a ResNet is split by",
        ),
        ({"task__init_from": "stock.pt"}, r"--init-from is stock\.pt, which is for translation"),
        ({"task__init_super": "stock"}, "--init-super is stock, which is for translation"),
        ({"task__bf16": True}, "use --autocast bfloat16"),
        ({"task__flip": 1.5}, r"--flip is 1\.5; allowed: 0 to 1"),
        ({"task__best_checkpoint_metric": "bleu"}, "--best-checkpoint-metric is bleu; allowed: loss, accuracy"),
        (
            {"criterion__report_accuracy": False},
            "--best-checkpoint-metric is accuracy, which needs --report-accuracy",
        ),
        ({"optimizer__momentum": 1.0}, r"--momentum is 1\.0; allowed: 0 <= momentum < 1"),
        (
            {"task__optimizer_name": "sgd", "task__alternate": True},
            "needs adam_for_partitioned_model or sgd_for_partitioned",
        ),
        (
            {"task__scheme": "meprop", "task__scheme_args": '{"keep": 0.5}'},
            "--scheme is meprop, which is for linear layers",
        ),
        (
            {"task__scheme": "dropout", "task__scheme_args": '{"keep_prob": 0.5}'},
            "--scheme is dropout, which gives batch norms .* use --norm none",
        ),
        ({"task__small_ratio": "1.5"}, r"--small-ratio is 1\.5; allowed: 0 < ratio < 1"),
        ({"model___name": "transformer"}, "--arch is transformer; allowed for images: resnet10, resnet18, resnet34"),
        ({"model__width": 0}, "--width is 0; allowed: 1 or more"),
        ({"model__width": 1, "task__small_ratio": "0.99"}, "levels 1 and 2 are the same network"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_options_that_are_refused(digits: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(digits, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task__crop_padding": 8}, "--crop-padding is 8; allowed: 0 to 7"),
        ({"task__crop_padding": -1}, "--crop-padding is -1; allowed: 0 to 7"),
        ({"task__batch_size": 4}, "--batch-size is 4, which leaves one of 1,437 images alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_training_images_that_are_refused(digits: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(digits, **given).task.load_dataset("train")
    if "task__batch_size" in given:
        build(digits, model__norm="none", **given).task.load_dataset("train")


def test_data_that_are_refused(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "dict.en.txt").touch()
    with pytest.raises(ValueError, match=r"has no images\.json; allowed: a folder that `fairseq-ats images` made"):
        build(tmp_path)
    built = build(digits)
    with pytest.raises(ValueError, match=r"extra.images\.npy is missing; allowed: train, valid, test"):
        built.task.load_dataset("extra")


def test_a_checkpoint_belongs_to_its_data(digits: Path, tmp_path: Path) -> None:
    """Other classes, another normalisation, and a state that is none."""
    built = build(digits)
    saved = built.task.state_dict()
    built.task.check_same_data(saved, "RUN")
    for name, value in (("classes", list("9876543210")), ("mean", [0.25])):
        description = json.loads((digits / DESCRIPTION).read_text()) | {name: value}
        (tmp_path / DESCRIPTION).write_text(json.dumps(description))
        other = build(tmp_path).task
        with pytest.raises(ValueError, match=f"RUN was trained on images with {name} .*, and {tmp_path} has"):
            other.check_same_data(saved, "RUN")
    with pytest.raises(ValueError, match="RUN was trained on images with classes None"):
        built.task.check_same_data({}, "RUN")

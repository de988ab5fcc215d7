"""The FLOPs of the paper's ResNet-18, against sums over its layers written out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fairseq_ats.architectures.partitioned_resnet import partition_model_
from fairseq_ats.architectures.resnet import ResNet10, ResNet18, ResNetConfig
from fairseq_ats.cli import cost as command
from fairseq_ats.cost.cost import scheme_flops
from fairseq_ats.cost.images import CIFAR10, PAPER_IMAGES, image_cost, image_table, paper_cost
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import CONVOLUTION
from fairseq_ats.schemes.schedule import Schedule, SchemeName
from tests.support.markdown import cells_of


def partitioned(kind: type, width: int) -> nn.Module:
    model = kind(ResNetConfig(width=width), CIFAR10.shape, 10)
    partition_model_(model, Partition(CONVOLUTION, 0.5))
    return model


def multiply_adds(width: int) -> tuple[int, int, int]:
    """Of one image in ResNet-18: convolutions, classifier, and elements that pass a batch norm."""
    convolutions, elements = 32 * 32 * 27 * width, 32 * 32 * width
    into = width
    for stage, side in enumerate((32, 16, 8, 4)):
        out = width * 2**stage
        for block in (0, 1):
            convolutions += side * side * 9 * (into * out + out * out)
            elements += 2 * side * side * out
            if stage > 0 and block == 0:
                convolutions += side * side * into * out
                elements += side * side * out
            into = out
    return convolutions, 10 * into, elements


def test_sums_by_hand() -> None:
    assert multiply_adds(64) == (555_417_600, 5_120, 614_400)
    assert multiply_adds(32) == (139_296_768, 2_560, 307_200)


def test_flops_of_table_3() -> None:
    """31.3e12 for ATS and 62.7e12 for slimmable training, from the model of the paper's size."""
    model = partitioned(ResNet18, 64)
    few = {level: paper_cost(model, CIFAR10, 2, level) for level in (1, 2)}  # larger counts are multiples: see below
    costs = {level: replace(cost, forward_flops=cost.flops * PAPER_IMAGES // 2) for level, cost in few.items()}
    for level, width in ((1, 32), (2, 64)):
        convolutions, classifier, elements = multiply_adds(width)
        assert costs[level].flops == 2 * (convolutions + classifier + 2 * elements) * PAPER_IMAGES
    found = {name: f"{flops / 1e12:.1f}" for name, flops in scheme_flops(costs).items()}
    assert (found["ATS (alternate)"], found["slimmable (all in one update)"]) == ("31.3", "62.7")
    assert (found["standard (super-network only)"], found["core only"]) == ("50.1", "12.6")


def test_flops_of_a_training_step() -> None:
    """PyTorch's count: the backward pass is two forward passes, without a gradient of the image."""
    model = partitioned(ResNet18, 8)
    for level, width in ((1, 4), (2, 8)):
        convolutions, classifier, _ = multiply_adds(width)
        cost = image_cost(model, CIFAR10, 100, level)
        assert cost.forward_flops == 2 * (convolutions + classifier) * 100
        assert cost.backward_flops == 2 * cost.forward_flops - 2 * 32 * 32 * 27 * width * 100


def test_table_of_a_model() -> None:
    model = partitioned(ResNet10, 4)
    task = SimpleNamespace(data=CIFAR10, partition=Partition(CONVOLUTION, 0.5))
    statistics = model.bn1.extension.running_mean.clone()
    table = image_table(task, model, Schedule(SchemeName.ALTERNATE, 2, (3, 1)))
    assert "| ATS (alternate 3:1) |" in table
    core = sum(p.numel() for name, p in model.named_parameters() if "extension" not in name)
    assert f"| core | {core:,} |" in table
    assert not torch.equal(statistics, model.bn1.extension.running_mean), "counted as in training"


def test_a_scheme_of_parts_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """By PyTorch's count: the paper has no such scheme."""
    options = ["--arch", "resnet10", "--width", "4", "--scheme", "extragradient", "--scheme-args"]
    command.main([*options, '{"step": 1}'])
    rows = {row[0]: row[1:] for row in cells_of(capsys.readouterr().out)[-6:]}
    own, paper = rows['extragradient {"step": 1}']
    assert paper == "–"
    assert float(own) == pytest.approx(2 * float(rows["standard (super-network only)"][0]), rel=5e-3), "three digits"


def test_cores_within_a_budget_are_of_a_transformer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--arch", "resnet10", "--core-parameters", "1M"])
    assert "--core-parameters and --core-flops are for a Transformer; --arch is a ResNet" in capsys.readouterr().err

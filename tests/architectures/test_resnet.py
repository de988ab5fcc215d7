"""The ResNet, stock and partitioned, against a network written out with functions, in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from fairseq_ats.architectures.partitioned_resnet import check_model_options, layer_type, partition_model_
from fairseq_ats.architectures.resnet import ResNet10, ResNet18, ResNetConfig
from fairseq_ats.modules.batch_norm import PartitionedBatchNorm2d
from fairseq_ats.modules.conv2d import PartitionedConv2d
from fairseq_ats.modules.levels import use_level
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import CONVOLUTION
from fairseq_ats.partition.tags import levels_of
from tests.support.plain_resnet import images, logits, partitioned, sliced, stock

RATIOS = [0.5, 0.25, (0.5, 0.7), (0.3, 0.7)]


def test_state_dict_is_torchvision_s() -> None:
    """Names, order and shapes of torchvision.models.resnet18(num_classes=10) with a stem of 3 × 3, written out."""
    expected: dict[str, tuple[int, ...]] = {}

    def conv_norm(conv: str, norm: str, out: int, into: int, size: int) -> None:
        expected[f"{conv}.weight"] = (out, into, size, size)
        for name in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{norm}.{name}"] = (out,)
        expected[f"{norm}.num_batches_tracked"] = ()

    conv_norm("conv1", "bn1", 64, 3, 3)
    into = 64
    for stage, out in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            conv_norm(f"{at}.conv1", f"{at}.bn1", out, into, 3)
            conv_norm(f"{at}.conv2", f"{at}.bn2", out, out, 3)
            if stage > 1 and block == 0:
                conv_norm(f"{at}.downsample.0", f"{at}.downsample.1", out, into, 1)
            into = out
    expected |= {"fc.weight": (10, 512), "fc.bias": (10,)}

    with torch.device("meta"):
        found = ResNet18(ResNetConfig(), (32, 32, 3), 10).state_dict()
    assert [(name, tuple(value.shape)) for name, value in found.items()] == list(expected.items())


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_every_level_is_its_slice(ratio: float | tuple[float, ...], norm: str) -> None:
    """Outputs and gradients are those of a network on the slices W[:out, :in], as slimmable networks compute it."""
    full = {name: v.detach().clone() for name, v in stock(norm=norm).state_dict().items()}
    model = partitioned(ratio, norm=norm)
    x, target = images(), torch.tensor([1, 7, 3])
    ratios = (*(ratio if isinstance(ratio, tuple) else (ratio,)), 1.0)
    for level, r in enumerate(ratios, start=1):
        weights = {name: v.clone().requires_grad_(v.is_floating_point()) for name, v in sliced(full, r).items()}
        expected = logits(weights, x)
        F.cross_entropy(expected, target).backward()

        model.zero_grad()
        with use_level(model, level):
            found = model(x)
            F.cross_entropy(found, target).backward()
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            for name, layer in model.named_modules():
                if isinstance(layer, PartitionedConv2d):
                    blocks = {id(p): p for p in layer.parameters()}.values()
                    assert all((level in levels_of(p)) == (p.grad is not None) for p in blocks), name
                    with torch.no_grad():  # assemble the gradient as the weight is assembled
                        for p in blocks:
                            p.data = torch.zeros_like(p) if p.grad is None else p.grad
                        torch.testing.assert_close(
                            layer.weight, weights[f"{name}.weight"].grad, rtol=1e-9, atol=1e-12, msg=name
                        )
                elif isinstance(layer, PartitionedBatchNorm2d):
                    own = getattr(layer, layer.name_of(level))
                    torch.testing.assert_close(own.weight.grad, weights[f"{name}.weight"].grad, rtol=1e-9, atol=1e-12)
                    others = [p for n, p in layer.named_parameters() if not n.startswith(f"{layer.name_of(level)}.")]
                    assert all(p.grad is None for p in others), name
        model = partitioned(ratio, norm=norm)  # its values were replaced by gradients


def test_super_network_is_the_stock_model_bit_for_bit() -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = images().to(memory_format=memory_format)
        one = stock().to(memory_format=memory_format)(x)
        other = partitioned(0.3).to(memory_format=memory_format)(x)
        torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_two_levels_of_one_size_in_a_layer() -> None:
    """Width 2 and ratios 0.3, 0.5: 1, 1, 2 channels. The blocks between equal sizes are None, and every level runs."""
    full = stock(width=2).state_dict()
    model = partitioned((0.3, 0.5), width=2)
    assert model.layer1[0].conv1.extension_2_rows is None
    assert model.layer1[0].conv1.extension_2_columns is None
    assert all(p.numel() for p in model.parameters())
    for level, ratio in enumerate((0.3, 0.5, 1.0), start=1):
        with use_level(model, level):
            torch.testing.assert_close(model(images()), logits(sliced(full, ratio), images()), rtol=1e-10, atol=1e-10)


def test_tags_of_a_convolution_and_its_norm() -> None:
    model = partitioned((0.25, 0.5))
    tags = {name: levels_of(p) for name, p in model.named_parameters()}
    assert tags["layer2.0.conv1.core_weight"] == {1, 2, 3}
    assert tags["layer2.0.conv1.extension_2_columns"] == tags["layer2.0.conv1.extension_2_rows"] == {2, 3}
    assert tags["layer2.0.conv1.extension_rows"] == {3}
    assert tags["bn1.core.weight"] == {1}
    assert tags["bn1.extension_2.bias"] == {2}
    assert tags["bn1.extension.weight"] == {3}
    assert tags["fc.core_bias"] == {1, 2, 3}
    assert "conv1.extension_columns" not in tags, "all levels read the whole image"


@pytest.mark.parametrize("max_level", [1, 2])
def test_lower_levels_load_from_a_whole_checkpoint(max_level: int) -> None:
    """Blocks, norms and running statistics above are dropped; the way back is refused."""
    whole, part = partitioned((0.25, 0.5)), partitioned((0.25, 0.5), max_level, seed=2)
    saved = whole.state_dict()
    part.load_state_dict(dict(saved), strict=True)
    with use_level(whole.eval(), max_level):
        torch.testing.assert_close(part.eval()(images()), whole(images()), rtol=0, atol=0)
    with pytest.raises(ValueError, match="the checkpoint has no "):
        whole.load_state_dict(part.state_dict(), strict=True)
    with pytest.raises(ValueError, match="another --small-ratio"):
        partitioned((0.5, 0.7)).load_state_dict(dict(saved), strict=True)


def test_sizes_of_the_paper_s_network() -> None:
    """The usual number of ResNet-18 on CIFAR-10, and what the core's norms add."""
    with torch.device("meta"):
        model = ResNet18(ResNetConfig(), (32, 32, 3), 10)
        whole = sum(p.numel() for p in model.parameters())
        partition_model_(model, Partition(CONVOLUTION, 0.5))
    both = sum(p.numel() for p in model.parameters())
    core = sum(p.numel() for p in model.parameters() if 1 in levels_of(p))
    assert (whole, core, both) == (11_173_962, 2_797_610, 11_178_762)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_name": "transformer"}, "--arch is transformer; allowed for images: resnet10, resnet18, resnet34"),
        ({"width": 0}, "--width is 0; allowed: 1 or more"),
        ({"norm": "layer"}, "--norm is layer; allowed: batch, none"),
        ({"dropout": 1.0}, "--dropout is 1.0; allowed: 0 <= dropout < 1"),
        ({"dropout": float("nan")}, "--dropout is nan"),
        ({"shape": (32, 7, 3)}, "32 × 7 pixels; resnet18 needs 8 on each side"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_of_the_model(change: dict[str, object], message: str) -> None:
    given = {"_name": "resnet18", "width": 16, "norm": "batch", "dropout": 0.0, "shape": (8, 8, 1)} | change
    shape = given.pop("shape")
    with pytest.raises(ValueError, match=message):
        check_model_options(SimpleNamespace(**given), shape)


def test_what_cannot_be_partitioned() -> None:
    with pytest.raises(ValueError, match="levels 1 and 2 are the same network"):
        partitioned(0.99, width=1)
    with pytest.raises(ValueError, match="the partition has PartitionedLinear; a ResNet has PartitionedConv2d"):
        partition_model_(stock(), Partition("PartitionedLinear", 0.5))
    with pytest.raises(ValueError, match="the model is a Linear; allowed: resnet10"):
        partition_model_(torch.nn.Linear(2, 2), Partition(CONVOLUTION, 0.5))
    for changed in ({"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}):
        with pytest.raises(ValueError, match="cannot be partitioned"):
            PartitionedConv2d(torch.nn.Conv2d(4, 4, 3, **changed), 0.5)


def test_without_norms_a_block_starts_as_its_shortcut() -> None:
    torch.manual_seed(3)
    model = ResNet10(ResNetConfig(width=4, norm="none"), (16, 16, 3), 10)
    x = torch.randn(2, 4, 16, 16).relu()
    torch.testing.assert_close(model.layer1(x), x)


def test_layer_types() -> None:
    names = [name for name, _ in partitioned(0.5).named_parameters()]
    assert {layer_type(name) for name in names} == {"stem", "conv1", "conv2", "downsample", "norm", "classifier"}
    assert layer_type("layer2.0.downsample.1.core.weight") == layer_type("bn1.core.bias") == "norm"
    assert layer_type("layer2.0.downsample.0.core_weight") == "downsample"
    assert layer_type("conv1.core_weight") == "stem"

"""A ResNet written out with functions, on slices of a stock state dict: the reference of every level."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_ats.architectures.partitioned_resnet import partition_model_
from fairseq_ats.architectures.resnet import ResNet, ResNet10, ResNetConfig
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import CONVOLUTION

SHAPE, CLASSES = (16, 16, 3), 10


def stock(width: int = 8, norm: str = "batch", kind: type[ResNet] = ResNet10, seed: int = 1) -> ResNet:
    torch.manual_seed(seed)
    model = kind(ResNetConfig(width=width, norm=norm), SHAPE, CLASSES).double()
    for name, parameter in model.named_parameters():  # no zeros and ones, which would hide an exchange
        if parameter.dim() == 1 or "conv2" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def partitioned(ratio: float | tuple[float, ...], max_level: int | None = None, **choices: object) -> ResNet:
    model = stock(**choices)
    partition_model_(model, Partition(CONVOLUTION, ratio, max_level))
    return model


def images(count: int = 3, seed: int = 5) -> Tensor:
    return torch.randn(count, SHAPE[2], *SHAPE[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sliced(full: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """The weights of a level, cut out of the full state dict: W[:out, :in] of a convolution, c[:out] of a norm."""

    def kept(size: int) -> int:
        return max(1, round(ratio * size))

    cut = {}
    for name, value in full.items():
        if name == "fc.weight":
            cut[name] = value[:, : kept(value.shape[1])]
        elif name == "fc.bias" or value.dim() == 0:
            cut[name] = value
        elif value.dim() == 4:
            into = value.shape[1] if name == "conv1.weight" else kept(value.shape[1])
            cut[name] = value[: kept(value.shape[0]), :into]
        else:
            cut[name] = value[: kept(value.shape[0])]
    return cut


def logits(w: Mapping[str, Tensor], x: Tensor, blocks: tuple[int, ...] = (1, 1, 1, 1)) -> Tensor:
    """Slimmable networks' forward pass in training mode, without a module."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, w[f"{conv}.weight"], w.get(f"{conv}.bias"), stride, w[f"{conv}.weight"].shape[-1] // 2)
        gain = w.get(f"{norm}.weight")
        if gain is None:
            return x
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * gain[:, None, None] + w[f"{norm}.bias"][:, None, None]

    x = conv_norm(x, "conv1", "bn1").relu()
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            hidden = conv_norm(x, f"{at}.conv1", f"{at}.bn1", stride).relu()
            if f"{at}.downsample.0.weight" in w:
                x = conv_norm(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = (conv_norm(hidden, f"{at}.conv2", f"{at}.bn2") + x).relu()
    return x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]


def task_of_images() -> SimpleNamespace:
    """All that building a model reads of a task."""
    return SimpleNamespace(data=SimpleNamespace(shape=SHAPE, classes=[str(number) for number in range(CLASSES)]))

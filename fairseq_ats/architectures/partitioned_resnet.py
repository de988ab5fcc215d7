"""Turn a built ResNet into a partitioned one, in place."""

from __future__ import annotations

import math
import re
from typing import Any, cast

from torch import nn

from fairseq_ats.architectures.resnet import NORMS, RESNETS, STAGES, ResNet
from fairseq_ats.modules import PartitionedLinear
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.batch_norm import PartitionedBatchNorm2d
from fairseq_ats.modules.conv2d import PartitionedConv2d
from fairseq_ats.modules.levels import refuse_equal_levels
from fairseq_ats.modules.linear import INPUT_DIM
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import CONVOLUTION

# Side of the smallest image: each stage after the first halves it.
MIN_SIDE = 2 ** (len(STAGES) - 1)


def partition_model_(model: nn.Module, partition: Partition, initialise: bool = True) -> int:
    """Partition a stock ResNet in place, as slimmable networks do (appendix C of the paper).

    All convolutions have r of their input and output channels in the core, and all batch norms are separate. The
    channels of the image and the classes are whole.

    Args:
        initialise: has no effect, since cutting a layer costs nothing.

    Returns:
        The number of replaced convolutions and linear layers.

    Raises:
        ValueError: the model is not a ResNet, the partition is not one of convolutions, or two levels are the same
            network.
    """
    if not isinstance(model, ResNet):
        raise ValueError(f"the model is a {type(model).__name__}; allowed: {', '.join(RESNETS)}")
    if partition.module_name != CONVOLUTION:
        raise ValueError(f"the partition has {partition.module_name}; a ResNet has {CONVOLUTION}")
    ratio, level = cast(tuple[float, ...], partition.small_ratio), partition.max_level
    if partition != Partition(CONVOLUTION, ratio, level):
        raise ValueError(f"the partition is {partition}; a ResNet has neither a depth nor other layers to split")
    swapped: list[PartitionedModule] = []
    for name, module in list(model.named_modules()):
        layer: PartitionedModule
        if isinstance(module, nn.Conv2d):
            layer = PartitionedConv2d(module, ratio, splits_input=name != "conv1", max_level=level)
        elif isinstance(module, nn.BatchNorm2d):
            layer = PartitionedBatchNorm2d(module, ratio, level)
        elif isinstance(module, nn.Linear):
            layer = PartitionedLinear.from_linear(module, ratio, INPUT_DIM, max_level=level)
        else:
            continue
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, layer)
        if not isinstance(layer, PartitionedBatchNorm2d):
            swapped.append(layer)
    refuse_equal_levels(swapped, partition)
    return len(swapped)


def check_model_options(cfg: Any, shape: tuple[int, int, int]) -> None:
    """Check the model's options before it is built.

    Args:
        cfg: fairseq's model options, as ``task.build_model`` gets them.
        shape: height, width and channels of an image.

    Raises:
        ValueError: ``--arch`` does not name a ResNet, an option is not allowed, or the images are too small.
    """
    name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
    if name not in RESNETS:
        raise ValueError(f"--arch is {name}; allowed for images: {', '.join(RESNETS)}")
    problems = []
    if cfg.width < 1:
        problems.append(f"--width is {cfg.width}; allowed: 1 or more")
    if str(cfg.norm) not in NORMS:
        problems.append(f"--norm is {cfg.norm}; allowed: {', '.join(NORMS)}")
    if not (0 <= cfg.dropout < 1 and math.isfinite(cfg.dropout)):
        problems.append(f"--dropout is {cfg.dropout}; allowed: 0 <= dropout < 1")
    if min(shape[:2]) < MIN_SIDE:
        problems.append(f"the images have {shape[0]} × {shape[1]} pixels; {name} needs {MIN_SIDE} on each side")
    if problems:
        raise ValueError("; ".join(problems))


def layer_type(parameter_name: str) -> str:
    """Return a parameter's layer type: ``layer3.0.conv1.extension_rows`` → ``conv1``.

    A type is ``stem``, ``conv1``, ``conv2``, ``downsample``, ``norm`` or ``classifier``; layers at all depths share it.
    """
    if re.search(r"(?:^|\.)(bn\d|downsample\.1)\.", parameter_name):
        return "norm"
    parts = parameter_name.split(".")
    if parts[0] in ("conv1", "fc"):
        return {"conv1": "stem", "fc": "classifier"}[parts[0]]
    return parts[2]

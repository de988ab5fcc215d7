"""Count the FLOPs of a ResNet on images, as PyTorch does, and as the paper's Table 3 must have counted.

The paper gives 31.3e12 FLOPs an epoch for ATS and 62.7e12 for slimmable training and does not say how they are counted.
Of the conventions that were tried one gives both: forward passes only, 2 FLOPs a multiply-add, 2 multiply-adds an
element that passes a batch norm, 45,000 images (5,000 held out), half of all channels in the core. It is an inference.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fairseq_ats.cost.cost import Cost, cost_of_batches, scheme_flops, scheme_of_parts_flops, scheme_text
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.data.image_sources import CIFAR10_CLASSES
from fairseq_ats.modules.levels import use_level
from fairseq_ats.schemes.partial_sgd import Scheme, SchemeOfParts

# FLOPs of an element that passes a batch norm, by the paper's count: two multiply-adds.
PAPER_NORM_FLOPS = 4
PAPER_IMAGES = 45_000  # of an epoch

BATCH = 128  # images, over which joined weights count as activations

# Images of CIFAR-10's shape, with which options are counted that have no data.
CIFAR10 = ImageData(CIFAR10_CLASSES, (32, 32, 3), (0.5,) * 3, (0.25,) * 3)


def random_images(data: ImageData, count: int) -> dict[str, Any]:
    """Return a mini-batch of random images, the same in each call."""
    height, width, channels = data.shape
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))
    return {"net_input": {"images": images}, "target": torch.zeros(count, dtype=torch.long), "ntokens": count}


def image_cost(model: nn.Module, data: ImageData, count: int, level: int) -> Cost:
    """Return the cost of one forward and backward pass of ``count`` images at ``level``."""
    return cost_of_batches(model, partial(random_images, data), count, level)


def paper_cost(model: nn.Module, data: ImageData, count: int, level: int) -> Cost:
    """Return the cost by the paper's count: forward passes only, with batch norms."""
    elements = 0

    def add(norm: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal elements
        elements += output[0].numel()

    norms = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad(), use_level(model, level):
        model(**random_images(data, 2)["net_input"])
    for norm in norms:
        norm.remove()
    cost = image_cost(model, data, count, level)
    return replace(cost, forward_flops=cost.forward_flops + PAPER_NORM_FLOPS * elements * count, backward_flops=0)


def image_table(task: Any, model: nn.Module, scheme: Scheme) -> str:
    """Return Markdown: the networks by image, and an epoch of each scheme by both counts.

    The paper's count is of the paper's schemes alone.
    """
    levels, epoch = task.partition.levels, PAPER_IMAGES
    true, paper = (
        scheme_flops({n: count(model, task.data, epoch, n) for n in levels}, *scheme.patterns)
        for count in (image_cost, paper_cost)
    )
    if isinstance(scheme, SchemeOfParts):
        batches = partial(random_images, task.data)
        true[scheme_text(task)] = scheme_of_parts_flops(
            scheme,
            task.model_parts(model),
            lambda update: cost_of_batches(model, batches, epoch, scheme.max_level, update=update),
        )
    lines = [
        "| network | parameters | forward MFLOPs/image | backward | activations kB/image |",
        "|---|---:|---:|---:|---:|",
    ]
    for level in reversed(levels):
        cost = image_cost(model, task.data, BATCH, level)
        lines.append(
            f"| {task.partition.network_name(level)} | {cost.parameters:,} | {cost.forward_flops / BATCH / 1e6:.1f} "
            f"| {cost.backward_flops / BATCH / 1e6:.1f} | {cost.activation_bytes / BATCH / 1e3:.0f} |"
        )
    lines += ["", f"| an epoch of {epoch:,} images | TFLOPs | by the paper's count |", "|---|---:|---:|"]
    for name, flops in true.items():
        lines.append(f"| {name} | {flops / 1e12:.3g} | {f'{paper[name] / 1e12:.3g}' if name in paper else '–'} |")
    return "\n".join(lines)

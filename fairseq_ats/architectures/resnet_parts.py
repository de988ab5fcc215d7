"""Say what a partitioned ResNet consists of."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from fairseq_ats.architectures.parts import ModelParts, NeuronGroup, Owned
from fairseq_ats.architectures.resnet import BasicBlock, ResNet
from fairseq_ats.modules.conv2d import PartitionedConv2d
from fairseq_ats.modules.norm import PrivateNorm
from fairseq_ats.partition.partition import CORE_LEVEL


def parts_of(model: ResNet) -> ModelParts:
    """Return the parts of a partitioned ResNet.

    Its neurons are the hidden channels of each block: the channels of the residual stream belong to all blocks of a
    stage. The paper masks neurons and does not say which. A hidden channel owns its row of ``conv1``, its gain and bias
    in the norm after it (without them a zero row would not be a zero channel), and its column of ``conv2``. The
    classifier belongs to the last layer.
    """
    blocks = model.basic_blocks()
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, PartitionedConv2d)}
    inside = {p for block in blocks.values() for p in block.parameters()}
    last = set(model.fc.parameters())
    stem = [p for p in model.parameters() if p not in inside | last]
    return ModelParts(
        parameters=dict(model.named_parameters()),
        weights={f"{n}.{own}": p for n, m in convolutions.items() for own, p in m.named_parameters() if p.ndim == 4},
        linears=(),
        hidden=[_hidden_channels(name, block) for name, block in blocks.items()],
        keys=(),
        layers=[stem, *(list(block.parameters()) for block in blocks.values()), list(last)],
    )


def _hidden_channels(name: str, block: BasicBlock) -> NeuronGroup:
    first, second = block.conv1, block.conv2
    assert isinstance(first, PartitionedConv2d)  # the model is partitioned
    assert isinstance(second, PartitionedConv2d)
    owned = [*_sides(first, 0), *_sides(second, 1)]
    size = first.out_sizes[first.max_level - CORE_LEVEL]
    if isinstance(block.bn1, PrivateNorm):
        owned += [Owned(p, 0, torch.arange(size), False) for p in block.bn1.active.parameters()]
    return NeuronGroup(name, size, owned)


def _sides(conv: PartitionedConv2d, side: int) -> Iterator[Owned]:
    """Yield which channels of one side (0: outputs, 1: inputs) the blocks of a convolution belong to."""
    sizes = (conv.out_sizes, conv.in_sizes)[side]
    for level in conv.held_levels:
        end = sizes[level - CORE_LEVEL]
        start = 0 if level == CORE_LEVEL else sizes[level - CORE_LEVEL - 1]
        # Of the side's channels: those below the level, those that it adds, and all of them.
        below, new, every = torch.arange(start), torch.arange(start, end), torch.arange(end)
        owners = (
            {"weight": every} if level == CORE_LEVEL else {"columns": (below, new)[side], "rows": (new, every)[side]}
        )
        if side == 0:
            owners["bias"] = new
        for kind, owner in owners.items():
            block = conv.block(kind, level)
            if isinstance(block, nn.Parameter):  # and not None
                yield Owned(block, side, owner, leaves=side == 1)

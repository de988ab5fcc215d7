"""Batch norms of their own for each level, and what their running statistics ask of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fairseq_ats.modules.blocks import sizes_of
from fairseq_ats.modules.norm import PrivateNorm
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.partition.shares import SmallRatio


class PartitionedBatchNorm2d(PrivateNorm):
    """One stock batch norm for each level ("separate batch normalization layers", appendix D of the paper).

    The paper does not say what is separate. Here all of it is: gain, bias and running statistics.

    Shapes: level n maps (batch, c_n, height, width) to itself.

    Args:
        norm: an initialised stock layer, from which each level takes its first channels.
        small_ratio: r, or one ratio for each level below the super-network.
        max_level: see :class:`PartitionedModule`.
    """

    def __init__(self, norm: nn.BatchNorm2d, small_ratio: SmallRatio, max_level: int | None = None) -> None:
        sizes = sizes_of(norm.num_features, small_ratio)
        norms = {}
        for level, size in enumerate(sizes[:max_level], start=CORE_LEVEL):
            own = nn.BatchNorm2d(size, norm.eps, norm.momentum).to(norm.weight)
            own.load_state_dict({name: v[:size] if v.dim() else v for name, v in norm.state_dict().items()})
            norms[level] = own
        super().__init__(norms, len(sizes), max_level)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore all buffers on exit: a pass in training mode moves running statistics."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)

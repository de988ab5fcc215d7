"""Batch norms of their own for each level, and what their running statistics ask of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.blocks import sizes_of
from fairseq_ats.partition.partition import CORE_LEVEL, SmallRatio
from fairseq_ats.partition.tags import tag_levels


class PartitionedBatchNorm2d(PartitionedModule):
    """One stock batch norm for each level ("separate batch normalization layers", appendix D of the paper).

    The paper does not say what is separate. Here all of it is: gain, bias and running statistics. An update of one
    network therefore leaves the norms of the others as they are. The norm of level n is the child ``core``,
    ``extension_2``, ..., ``extension``, and its parameters are tagged with n alone.

    Args:
        norm: an initialised stock layer, from which each level takes its first channels.
        small_ratio: r, or one ratio for each level below the super-network.
        max_level: see :class:`PartitionedModule`.
    """

    def __init__(self, norm: nn.BatchNorm2d, small_ratio: SmallRatio, max_level: int | None = None) -> None:
        sizes = sizes_of(norm.num_features, small_ratio)
        super().__init__(len(sizes), max_level)
        for level in self.held_levels:
            size = sizes[level - CORE_LEVEL]
            own = nn.BatchNorm2d(size, norm.eps, norm.momentum).to(norm.weight)
            own.load_state_dict({name: v[:size] if v.dim() else v for name, v in norm.state_dict().items()})
            for parameter in own.parameters():
                tag_levels(parameter, (level,))
            self.add_module(self.name_of(level), own)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, c_n, height, width) with the norm of the active level."""
        return cast(nn.Module, getattr(self, self.name_of(self.level)))(x)


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

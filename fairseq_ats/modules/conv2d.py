"""Small width of a convolution: each level is the top left corner of the full weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.blocks import join, sizes_of
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.partition.shares import SmallRatio


class PartitionedConv2d(PartitionedModule):
    r"""Convolution whose core has fewer input and output channels (appendix C of the paper, as in slimmable networks).

    .. math:: W_n = \begin{pmatrix} W_{n-1} & C_n \\ \multicolumn{2}{c}{R_n} \end{pmatrix}

    Level n adds :math:`C_n` (``columns``), with which the outputs of the level below read the new inputs, and
    :math:`R_n` (``rows``), with which the new outputs read all inputs of level n. Where a level adds no channel, the
    block is None.

    Shapes: level n maps (batch, in_n, height, width) to (batch, out_n, height', width'), where a side of c channels has
    ``max(1, round(r_n * c))`` at level n. All layers on one residual stream therefore agree.

    Args:
        conv: an initialised stock layer. The super-network computes what it computed.
        small_ratio: r, or one ratio for each level below the super-network.
        splits_input: False for a layer that reads the image, whose channels all levels read.
        max_level: see :class:`PartitionedModule`.

    Raises:
        ValueError: the layer has groups, a dilation, or another padding than a number of zeros.
    """

    core_weight: Tensor
    core_bias: Tensor | None

    def __init__(
        self, conv: nn.Conv2d, small_ratio: SmallRatio, splits_input: bool = True, max_level: int | None = None
    ) -> None:
        out_sizes = sizes_of(conv.out_channels, small_ratio)
        in_sizes = sizes_of(conv.in_channels, small_ratio) if splits_input else [conv.in_channels] * len(out_sizes)
        super().__init__(len(out_sizes), max_level)
        if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"{conv} cannot be partitioned; allowed: groups and dilation 1, padding with zeros")
        self.stride, self.padding = conv.stride, conv.padding
        self.out_sizes, self.in_sizes = out_sizes, in_sizes  # of each level
        rows = columns = 0  # of the level below
        for level, (out, into) in enumerate(zip(out_sizes, in_sizes, strict=True), start=CORE_LEVEL):
            if level == CORE_LEVEL:
                self.add_block(level, "weight", conv.weight[:out, :into])
            else:
                self.add_block(level, "columns", _nonempty(conv.weight[:rows, columns:into]))
                self.add_block(level, "rows", _nonempty(conv.weight[rows:out, :into]))
            self.add_block(level, "bias", None if conv.bias is None else _nonempty(conv.bias[rows:out]))
            rows, columns = out, into

    def weight_at(self, level: int) -> Tensor:
        """Return the weight of ``level``: (out_n, in_n, height, width)."""
        weight = self.core_weight
        for n in range(CORE_LEVEL + 1, level + 1):
            for kind, dim in (("columns", 1), ("rows", 0)):
                block = self.block(kind, n)
                weight = weight if block is None else torch.cat([weight, block], dim)
        return weight

    def bias_at(self, level: int) -> Tensor | None:
        """Return the bias of ``level``: (out_n,)."""
        if self.core_bias is None:
            return None
        return join([block for block in self.blocks("bias", level) if block is not None], 0)

    @property
    def weight(self) -> Tensor:
        """The weight of the active level."""
        return self.weight_at(self.level)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the active level."""
        return self.bias_at(self.level)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve at the active level."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def _nonempty(block: Tensor) -> Tensor | None:
    return block if block.numel() else None

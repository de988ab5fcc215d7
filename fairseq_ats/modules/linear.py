"""Small width: each level is a block of rows, or of columns, of the full weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.blocks import divide, join
from fairseq_ats.modules.linear_base import PartitionedLinearModule
from fairseq_ats.partition.partition import CORE_LEVEL, core_size
from fairseq_ats.partition.shares import SmallRatio, ratios_of

OUTPUT_DIM = 0
INPUT_DIM = 1


class PartitionedLinear(PartitionedLinearModule):
    r"""Linear layer whose core is narrower (section 4.2 and appendix C of the paper).

    .. math:: y = \begin{pmatrix} W_{core} \\ W_{ext} \end{pmatrix} x + b
        \quad\text{or}\quad y = \begin{pmatrix} W_{core} & W_{ext} \end{pmatrix} x + b

    The left form (``dim=0``) narrows the output: the hidden neurons of a feed-forward module, in its first layer, and
    keys and queries. The right form (``dim=1``) narrows the input: the second layer reads the neurons that the first
    layer has at that level. The right form does not split the bias; it belongs to the core.

    With several ratios (not in the paper) each level adds one block to the levels below it.

    With ``groups`` a level takes the first rows *of each group*. Keys and queries use one group for each head. The
    first rows of the whole matrix would fill the first heads and leave the other heads without a score. The paper does
    not say which rows the core keeps.

    The rows or columns of the partitioned side belong to *units*, numbered from 0 in the order of the full layer: a
    hidden neuron each, or a key/query dimension of every group. With ``units`` (their numbers, ascending) the layer
    computes with these alone, and multiplies what belongs to them by ``unit_scale``. Both are plain attributes, as
    ``level`` is. They are for the highest level.

    Shapes: the super-network maps (*, in) to (*, out). At a level below it, the partitioned side has
    ``sizes[level - 1]``.

    Args:
        weight: full weight, (out, in).
        bias: full bias, (out,), or None.
        small_ratio: r; the core has ``groups * max(1, round(r * size / groups))`` of the partitioned side. Several
            ratios, in ascending order, give one level each, below the super-network.
        dim: 0 partitions the output, 1 the input.
        groups: the number of equal groups on the partitioned side; must divide its size.
        max_level: the highest level to build: 1 is the core alone; None is the super-network.
    """

    core_weight: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        small_ratio: SmallRatio,
        dim: int,
        groups: int = 1,
        max_level: int | None = None,
    ) -> None:
        out_features, in_features = weight.shape
        sizes = [groups * core_size(weight.shape[dim] // groups, ratio) for ratio in ratios_of(small_ratio)]
        super().__init__(in_features, out_features, sizes, max_level)
        self.dim = dim
        self.groups = groups
        self.units: Tensor | None = None
        self.unit_scale = 1.0
        for level, block in enumerate(divide(weight, sizes, dim, groups), start=CORE_LEVEL):
            self.add_block(level, "weight", block)
        self.splits_bias = bias is not None and dim == OUTPUT_DIM
        biases: Sequence[Tensor | None] = [bias, *(None for _ in sizes)]
        if bias is not None and self.splits_bias:
            biases = divide(bias, sizes, 0, groups)
        for level, part in enumerate(biases, start=CORE_LEVEL):
            self.add_block(level, "bias", part)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        small_ratio: SmallRatio,
        dim: int,
        groups: int = 1,
        max_level: int | None = None,
    ) -> PartitionedLinear:
        """Split an initialised stock layer; the super-network computes what ``linear`` computed."""
        return cls(linear.weight, linear.bias, small_ratio, dim, groups, max_level)

    @property
    def units_held(self) -> int:
        """The number of units of the highest level."""
        return sum(block.shape[self.dim] for block in self.blocks("weight", self.max_level)) // self.groups

    def unit_blocks(self) -> Iterator[tuple[nn.Parameter, int, Tensor]]:
        """Yield each parameter that units own, the dimension of their rows or columns, and whose each of these is."""
        end = 0
        for level in range(CORE_LEVEL, self.max_level + 1):
            weight = cast(nn.Parameter, self.block("weight", level))
            start, end = end, end + weight.shape[self.dim] // self.groups
            owner = torch.arange(start, end).repeat(self.groups)
            yield weight, self.dim, owner
            if self.splits_bias:
                yield cast(nn.Parameter, self.block("bias", level)), 0, owner

    def weight_at(self, level: int) -> Tensor:
        return self._of_units(join(self.blocks("weight", level), self.dim, self.groups), self.dim)

    def bias_at(self, level: int) -> Tensor | None:
        if not self.splits_bias:
            return self.core_bias
        return self._of_units(join(self.blocks("bias", level), 0, self.groups), 0)

    def _of_units(self, whole: Tensor, dim: int) -> Tensor:
        if self.units is None:
            return whole
        grouped = whole.unflatten(dim, (self.groups, -1))
        chosen = grouped.index_select(dim + 1, self.units.to(whole.device)).flatten(dim, dim + 1)
        return chosen if self.unit_scale == 1.0 else chosen * self.unit_scale

    def forward_level(self, x: Tensor) -> Tensor:
        """Compute (*, in) → (*, out); the core's weight is one parameter and needs no folding."""
        if self.level == CORE_LEVEL and self.units is None:
            return F.linear(x, self.core_weight, self.core_bias)
        return super().forward_level(x)

    def extra_repr(self) -> str:
        side = "out" if self.dim == OUTPUT_DIM else "in"
        sizes = ", ".join(map(str, self.sizes))
        return f"{super().extra_repr()}, core_{side}_features={sizes}, groups={self.groups}"

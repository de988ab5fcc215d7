"""Cut a tensor into one block for each level, and put the blocks together again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fairseq_ats.partition.partition import core_size
from fairseq_ats.partition.shares import SmallRatio, ratios_of


def sizes_of(full_size: int, small_ratio: SmallRatio) -> list[int]:
    """Return the size of every level, from the core up: the full size is the last."""
    return [*(core_size(full_size, ratio) for ratio in ratios_of(small_ratio)), full_size]


def join(blocks: Sequence[Tensor], dim: int, groups: int = 1) -> Tensor:
    """Join blocks along ``dim``, separately within each of ``groups`` equal groups.

    With one group this is ``cat``. With one group for each attention head, every head starts with the core's rows.
    """
    if len(blocks) == 1:
        return blocks[0]
    if groups == 1:
        return torch.cat(list(blocks), dim)
    # reshape and not unflatten, which takes as long as the rest together on small tensors.
    grouped = [b.reshape(*b.shape[:dim], groups, b.shape[dim] // groups, *b.shape[dim + 1 :]) for b in blocks]
    return torch.cat(grouped, dim + 1).flatten(dim, dim + 1)


def divide(full: Tensor, sizes: Sequence[int], dim: int, groups: int = 1) -> list[Tensor]:
    """Divide a tensor into blocks, the inverse of :func:`join`: the first n blocks have ``sizes[n - 1]`` together.

    Args:
        sizes: ascending. The last block is the rest.
    """
    grouped = full.unflatten(dim, (groups, -1))
    ends = [0, *(size // groups for size in sizes), grouped.shape[dim + 1]]
    blocks = grouped.split([end - start for start, end in pairwise(ends)], dim + 1)
    return [block.flatten(dim, dim + 1) for block in blocks]

"""Start the super-network of a new low-rank run as its core.

By default (:meth:`PartitionedRankLinear.from_linear`) the super-network computes what the stock model computes, so W is
what VU leaves of the stock weight. That is nearly all of it, since the rank is small, and it is random: an update of
one network is noise to the other until W has been trained. With W = 0 both networks start as one function. There x̃ = x,
and c_sim and c_align of the paper's Theorem 1 are 1. The paper does not say where its networks start;
results/initialisation/ compares.
"""

from __future__ import annotations

import torch
from torch import nn

from fairseq_ats.modules import PartitionedRankLinear
from fairseq_ats.partition.partition import CORE_LEVEL


@torch.no_grad()
def start_as_core_(model: nn.Module) -> None:
    """Make every network of a low-rank model compute what its core computes, in place.

    With several ratios this also zeroes the columns of V above the core. The rows of U that they multiply stay, so that
    V has a gradient.
    """
    for layer in [module for module in model.modules() if isinstance(module, PartitionedRankLinear)]:
        for level in range(CORE_LEVEL + 1, layer.max_level + 1):
            layer.block("weight" if level == layer.super_level else "v", level).zero_()

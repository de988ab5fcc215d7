"""Where the super-network of a new low-rank run starts: as the stock model, or as its core.

From :meth:`PartitionedRankLinear.from_linear` the super-network computes what the stock model computes, and W is what
the core's VU leaves of it: of small rank, nearly all of it, and random. An update of one network is then noise to the
other until W has been trained. With W = 0 both start as one function, x̃ = x, where c_sim and c_align of the paper's
Theorem 1 are 1, and part as they learn. The paper does not say where its networks start; results/initialisation.md
compares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fairseq_ats.modules import PartitionedRankLinear
from fairseq_ats.options.config import scheme_options
from fairseq_ats.partition.partition import CORE_LEVEL

STOCK, CORE = SUPER_STARTS = ("stock", "core")


def super_start_of(cfg: Any) -> str:
    """What the task's options ask for, or what was measured to be best: the core where both networks are trained."""
    if cfg.init_super is not None:
        return str(cfg.init_super)
    return CORE if scheme_options(cfg).name.trains_several and cfg.init_from is None else STOCK


@torch.no_grad()
def start_as_core_(model: nn.Module) -> None:
    """Make every network of a low-rank model compute what its core computes, in place.

    With several ratios the columns of V above the core become zero, too; the rows of U that they multiply stay, so that
    V has a gradient.
    """
    for layer in [module for module in model.modules() if isinstance(module, PartitionedRankLinear)]:
        for level in range(CORE_LEVEL + 1, layer.max_level + 1):
            layer.block("weight" if level == layer.super_level else "v", level).zero_()

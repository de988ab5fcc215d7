"""Low rank: the core is a product of two thin matrices, the super-network adds a full one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.blocks import divide, join
from fairseq_ats.modules.linear import INPUT_DIM, OUTPUT_DIM
from fairseq_ats.modules.linear_base import PartitionedLinearModule
from fairseq_ats.partition.partition import CORE_LEVEL, core_size
from fairseq_ats.partition.shares import SmallRatio, ratios_of


class PartitionedRankLinear(PartitionedLinearModule):
    r"""Low-rank fully connected layer, LFC (section 4.1 of the paper).

    .. math:: y = (VU + W)x + b \quad\text{(super-network)}, \qquad y = V(Ux) + b \quad\text{(core)}

    ``core_u`` is U (k, in), ``core_v`` is V (out, k), ``extension_weight`` is W (out, in). The bias belongs to the
    core, because the super-network must contain everything that the core computes with. The paper does not mention it.

    With several ratios (not in the paper) each level below the super-network has a higher rank than the level below
    it: it adds rows to U and columns to V. The super-network adds W to the highest rank:

    .. math:: V_l U_l = \begin{pmatrix} V_{l-1} & V'_l \end{pmatrix} \begin{pmatrix} U_{l-1} \\ U'_l \end{pmatrix}

    Args:
        u: U (k, in), where k is the rank of the highest level below the super-network.
        v: V (out, k).
        weight: W (out, in); None is allowed if ``max_level`` is below the super-network.
        bias: (out,), or None.
        max_level: the highest level to build: 1 is the core alone; None is the super-network.
        ranks: the ranks of the levels below the super-network, ascending up to k; None stands for k alone.
    """

    extension_weight: Tensor
    folded_u: Tensor
    folded_v: Tensor

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        max_level: int | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(u.shape[1], v.shape[0], (u.shape[0],) if ranks is None else ranks, max_level)
        # One block more than there are ranks: the last block, above all ranks, is empty.
        u_blocks, v_blocks = divide(u, self.sizes, OUTPUT_DIM), divide(v, self.sizes, INPUT_DIM)
        for level in range(CORE_LEVEL, self.super_level):
            self.add_block(level, "u", u_blocks[level - 1])
            self.add_block(level, "v", v_blocks[level - 1])
        self.add_block(self.super_level, "weight", weight)
        self.add_block(CORE_LEVEL, "bias", bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        small_ratio: SmallRatio,
        max_level: int | None = None,
        initialise: bool = True,
    ) -> PartitionedRankLinear:
        """Factorise an initialised stock layer, k = max(1, round(r · min(in, out))).

        At every level VU starts as the best approximation of rank k of the stock weight. W starts as the rest, so the
        super-network is the stock layer (:mod:`fairseq_ats.training.super_start` can start with W = 0 instead). The
        paper does not say how U, V and W start. V does not start at zero as in LoRA: with VU = 0 in both queries and
        keys, a core's scores have no first-order gradient. results/initialisation/ compares.

        Args:
            small_ratio: r; several ratios, in ascending order, give one level each, below the super-network.
            initialise: False leaves U and V at zero, for a layer that a checkpoint is about to fill.
        """
        full = linear.weight.detach()
        out_features, in_features = full.shape
        ranks = [core_size(min(in_features, out_features), ratio) for ratio in ratios_of(small_ratio)]
        rank = ranks[-1]
        u, v = full.new_zeros(rank, in_features), full.new_zeros(out_features, rank)
        if initialise:
            left, values, right = torch.linalg.svd(full.float(), full_matrices=False)
            scale = values[:rank].sqrt()
            u.copy_(scale[:, None] * right[:rank])
            v.copy_(left[:, :rank] * scale)
        has_rest = max_level in (None, len(ranks) + 1)
        return cls(u, v, full - v @ u if has_rest else None, linear.bias, max_level, ranks)

    @property
    def rank(self) -> int:
        """The rank of VU at the highest level that this layer holds."""
        return self.sizes[min(self.max_level, len(self.sizes)) - 1]

    def factors_at(self, level: int) -> tuple[Tensor, Tensor]:
        """Return U (k, in) and V (out, k) of ``level``; the super-network has the U and V of the level below it."""
        level = min(level, self.super_level - 1)
        return join(self.blocks("u", level), OUTPUT_DIM), join(self.blocks("v", level), INPUT_DIM)

    def weight_at(self, level: int) -> Tensor:
        u, v = self.factors_at(level)
        return torch.addmm(self.extension_weight, v, u) if level == self.super_level else v @ u

    def bias_at(self, level: int) -> Tensor | None:
        return self.core_bias

    def forward_level(self, x: Tensor) -> Tensor:
        """Compute (*, in) → (*, out). No level below the super-network forms VU.

        With enough rows to pay for folding, the super-network folds W + VU and multiplies once: one GEMM, and autograd
        keeps only x.
        """
        has_rest = self.level == self.super_level
        if has_rest and x.numel() // self.in_features >= self.rows_to_fold:
            return super().forward_level(x)
        u, v = self.factors_at(self.level)
        thin = F.linear(F.linear(x, u), v, self.core_bias)
        return thin + F.linear(x, self.extension_weight) if has_rest else thin

    def fold(self, level: int) -> None:
        """Store the dense weight of ``level``, or U and V if they are smaller."""
        if level == self.super_level or self.sizes[level - 1] >= self.rows_to_fold:
            super().fold(level)
        else:
            for name, value in zip(("folded_u", "folded_v"), self.factors_at(level), strict=True):
                self.hold(name, value)
            self.hold("bias", self.bias_at(level))

    @property
    def _is_folded_thin(self) -> bool:
        return "folded_u" in self._parameters

    def folded(self) -> tuple[Tensor, Tensor | None]:
        if not self._is_folded_thin:
            return super().folded()
        return self.folded_v @ self.folded_u, self._parameters["bias"]

    def forward_folded(self, x: Tensor) -> Tensor:
        if not self._is_folded_thin:
            return super().forward_folded(x)
        return F.linear(F.linear(x, self.folded_u), self.folded_v, self._parameters["bias"])

    @property
    def rows_to_fold(self) -> int:
        """The number of rows from which folding is cheaper: it costs k·in·out, two thin products k·(in + out) a row.

        A decoding step has few rows. From this rank on, a dense matrix is also no larger than two thin ones.
        """
        size = self.in_features * self.out_features
        return -(-size // (self.in_features + self.out_features))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={', '.join(map(str, self.sizes))}"

"""Low rank: the core is a product of two thin matrices, the super-network adds a full one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.partitioned_module import PartitionedModule
from fairseq_ats.partition import CORE_LEVEL, SUPER_LEVEL, core_size


class PartitionedRankLinear(PartitionedModule):
    r"""Low-rank fully connected layer, LFC (section 4.1 of the paper).

    .. math:: y = (VU + W)x + b \quad\text{(super-network)}, \qquad y = V(Ux) + b \quad\text{(core)}

    ``core_u`` is U (k, in), ``core_v`` is V (out, k), ``extension_weight`` is W (out, in). The bias, of which the
    paper does not speak, is the core's: the super-network must contain everything that the core computes with.

    Args:
        u, v, weight: the three matrices. ``weight`` may be None if ``max_level`` is 1.
        bias: (out,), or None.
        max_level: 1 keeps the core alone.
    """

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        max_level: int = SUPER_LEVEL,
    ) -> None:
        super().__init__(u.shape[1], v.shape[0], max_level)
        self.rank = u.shape[0]
        self.add_parameter("core_u", u)
        self.add_parameter("core_v", v)
        self.add_parameter("extension_weight", weight)
        self.add_parameter("core_bias", bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        small_ratio: float,
        max_level: int = SUPER_LEVEL,
        initialise: bool = True,
    ) -> PartitionedRankLinear:
        """Factorise an initialised stock layer, k = max(1, round(r · min(in, out))).

        VU starts as the stock weight's best approximation of rank k, and W as the rest: the super-network starts as the
        stock layer. The paper is silent on how U, V and W start. V is not zero as in LoRA: with VU = 0 in queries and
        keys alike, a core's scores have no gradient of first order. results/initialisation.md compares four choices.

        Args:
            initialise: False leaves U and V at zero, for a layer whose parameters a checkpoint is about to fill.
        """
        full = linear.weight.detach()
        out_features, in_features = full.shape
        rank = core_size(min(in_features, out_features), small_ratio)
        u, v = full.new_zeros(rank, in_features), full.new_zeros(out_features, rank)
        if initialise:
            left, values, right = torch.linalg.svd(full.float(), full_matrices=False)
            scale = values[:rank].sqrt()
            u.copy_(scale[:, None] * right[:rank])
            v.copy_(left[:, :rank] * scale)
        weight = None if max_level == CORE_LEVEL else full - v @ u
        return cls(u, v, weight, linear.bias, max_level)

    def weight_at(self, level: int) -> Tensor:
        if level == CORE_LEVEL:
            return self.core_v @ self.core_u
        return torch.addmm(self.extension_weight, self.core_v, self.core_u)

    def bias_at(self, level: int) -> Tensor | None:
        return self.core_bias

    def forward_level(self, x: Tensor) -> Tensor:
        """(*, in) → (*, out). The core never forms VU.

        The super-network multiplies by W + VU, folded first, when there are enough rows to pay for the folding:
        one GEMM, and autograd keeps x alone.
        """
        if self.level == CORE_LEVEL:
            return F.linear(F.linear(x, self.core_u), self.core_v, self.core_bias)
        if x.numel() // self.in_features >= self.rows_to_fold:
            return super().forward_level(x)
        thin = F.linear(F.linear(x, self.core_u), self.core_v, self.core_bias)
        return thin + F.linear(x, self.extension_weight)

    @property
    def rows_to_fold(self) -> int:
        """Folding costs k·in·out, the two thin products cost k·(in + out) a row; a decoding step has few rows."""
        size = self.in_features * self.out_features
        return -(-size // (self.in_features + self.out_features))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"

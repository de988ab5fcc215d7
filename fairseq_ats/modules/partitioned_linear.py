"""Small width: the core is a block of rows, or of columns, of the full weight."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.partitioned_module import PartitionedModule, divide, join
from fairseq_ats.partition import CORE_LEVEL, SUPER_LEVEL, core_size

OUTPUT_DIM = 0
INPUT_DIM = 1


class PartitionedLinear(PartitionedModule):
    r"""Linear layer whose core is narrower (section 4.2 and appendix C of the paper).

    .. math:: y = \begin{pmatrix} W_{core} \\ W_{ext} \end{pmatrix} x + b
        \quad\text{or}\quad y = \begin{pmatrix} W_{core} & W_{ext} \end{pmatrix} x + b

    The left form (``dim=0``) narrows the output: hidden neurons of a feed-forward module's first layer, and
    keys and queries. The right form (``dim=1``) narrows the input: the second layer, which reads the neurons that
    the first one has at that level. The bias of the right form is whole, and the core's.

    With ``groups`` the core takes the first rows *of each group*. Keys and queries use one group per head: taken
    contiguously, the core's rows would fill the first heads and leave the others without a score. The paper does
    not say which rows the core keeps.

    Shapes: the super-network maps (*, in) to (*, out). In the core, the partitioned side has ``core_features``.

    Args:
        weight: full weight, (out, in).
        bias: full bias, (out,), or None.
        small_ratio: r; the core has ``groups * max(1, round(r * size / groups))`` of the partitioned side.
        dim: 0 partitions the output, 1 the input.
        groups: equal groups on the partitioned side; must divide it.
        max_level: 1 keeps the core alone.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        small_ratio: float,
        dim: int,
        groups: int = 1,
        max_level: int = SUPER_LEVEL,
    ) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, max_level)
        self.dim = dim
        self.groups = groups
        self.core_features = groups * core_size(weight.shape[dim] // groups, small_ratio)

        core_weight, extension_weight = divide(weight, self.core_features, dim, groups)
        self.add_parameter("core_weight", core_weight)
        self.add_parameter("extension_weight", extension_weight)
        if bias is not None and dim == OUTPUT_DIM:
            core_bias, extension_bias = divide(bias, self.core_features, 0, groups)
        else:
            core_bias, extension_bias = bias, None
        self.add_parameter("core_bias", core_bias)
        self.add_parameter("extension_bias", extension_bias)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        small_ratio: float,
        dim: int,
        groups: int = 1,
        max_level: int = SUPER_LEVEL,
    ) -> PartitionedLinear:
        """Split an initialised stock layer; at level 2 the result computes what ``linear`` computed."""
        return cls(linear.weight, linear.bias, small_ratio, dim, groups, max_level)

    def weight_at(self, level: int) -> Tensor:
        if level == CORE_LEVEL:
            return self.core_weight
        return join(self.core_weight, self.extension_weight, self.dim, self.groups)

    def bias_at(self, level: int) -> Tensor | None:
        if level == CORE_LEVEL or self.extension_bias is None:
            return self.core_bias
        return join(self.core_bias, self.extension_bias, 0, self.groups)

    def forward_level(self, x: Tensor) -> Tensor:
        """(*, in) → (*, out); the core's weight is a parameter as it is."""
        if self.level == CORE_LEVEL:
            return F.linear(x, self.core_weight, self.core_bias)
        return super().forward_level(x)

    def extra_repr(self) -> str:
        side = "out" if self.dim == OUTPUT_DIM else "in"
        return f"{super().extra_repr()}, core_{side}_features={self.core_features}, groups={self.groups}"

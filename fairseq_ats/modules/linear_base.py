"""What the partitioned linear layers have in common: a dense weight for each level, and folding it once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.folded_linear import linear_with_folded_weight
from fairseq_ats.partition.partition import CORE_LEVEL


class PartitionedLinearModule(PartitionedModule, ABC):
    """A linear layer whose parameters are split by level.

    To *fold* is to compute a level's dense weight from its blocks. In training that happens in every pass; before
    decoding, fairseq's ``make_generation_fast_`` does it once.

    Args:
        in_features: of the full layer.
        out_features: of the full layer.
        sizes: what the partition makes smaller (rank or width), for each level below the super-network, from the core
            up. Two levels may have the same size in a layer: the block between them is then empty.
        max_level: the highest level to build; see :class:`PartitionedModule`.
    """

    core_bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, sizes: Sequence[int], max_level: int | None = None) -> None:
        super().__init__(len(sizes) + 1, max_level)
        self.in_features = in_features
        self.out_features = out_features
        self.sizes = tuple(sizes)
        # The level that make_generation_fast_ folded.
        self.folded_level: int | None = None

    @abstractmethod
    def weight_at(self, level: int) -> Tensor:
        """Return the weight of ``level`` as one dense matrix (out, in)."""

    @abstractmethod
    def bias_at(self, level: int) -> Tensor | None:
        """Return the bias of ``level``."""

    @property
    def weight(self) -> Tensor:
        """The dense weight of the active level."""
        return self.folded()[0] if self._is_folded else self.weight_at(self.level)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the active level."""
        return self.folded()[1] if self._is_folded else self.bias_at(self.level)

    @property
    def _is_folded(self) -> bool:
        return self.level == self.folded_level

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``weight @ x + bias`` of the active level; (*, in) → (*, out)."""
        return self.forward_folded(x) if self._is_folded else self.forward_level(x)

    def forward_level(self, x: Tensor) -> Tensor:
        """Compute the same from the blocks, by one product with the dense weight.

        A subclass may know a cheaper way for a level.
        """
        level = self.level  # as it is now: another level may be active during backward
        return linear_with_folded_weight(x, lambda: self.weight_at(level), self.bias)

    def forward_folded(self, x: Tensor) -> Tensor:
        """Compute the same from the folded weight, at its level."""
        return F.linear(x, *self.folded())

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Return the dense weight and the bias of the folded level."""
        return cast(Tensor, self._parameters["weight"]), self._parameters["bias"]

    def fold(self, level: int) -> None:
        """Store the dense weight and the bias of ``level``; a subclass may store something smaller."""
        self.hold("weight", self.weight_at(level))
        self.hold("bias", self.bias_at(level))

    def hold(self, name: str, value: Tensor | None) -> None:
        """Store a copy of a folded tensor as a parameter."""
        # The names of a stock layer are properties here, and register_parameter refuses those.
        self._parameters[name] = None if value is None else nn.Parameter(value.detach().clone())

    def make_generation_fast_(self, **_options_of_other_modules: object) -> None:
        """Fold the active level's weight once, before decoding, and not in every step.

        What is folded becomes the layer's parameters, under a stock layer's names where the weight is dense: the state
        dict and the count of parameters are those of the network that runs. All extension blocks are freed. The core's
        blocks stay as buffers that are not saved, so the core can still run. Do nothing at the core's level. The layer
        cannot be trained afterwards (fairseq/models/fairseq_model.py, ``make_generation_fast_``).
        """
        if self.level == CORE_LEVEL or self.folded_level is not None:
            return
        blocks = dict(self.named_parameters(recurse=False))
        self.fold(self.level)
        self.folded_level = self.level
        for name, block in blocks.items():
            delattr(self, name)
            if self._level_of_name(name) == CORE_LEVEL:
                self.register_buffer(name, block.detach(), persistent=False)
            else:
                setattr(self, name, None)

    @property
    def held_levels(self) -> tuple[int, ...]:
        """The levels at which this layer can run: after folding, the core's and the folded one."""
        return super().held_levels if self.folded_level is None else (CORE_LEVEL, self.folded_level)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {super().extra_repr()}"

"""Norms that each network has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.tags import tag_levels


class PrivateNorm(PartitionedModule):
    """One stock norm for each level: an update of one network leaves the norms of the others as they are.

    The norm of level n is the child ``core``, ``extension_2``, ..., ``extension``, and its parameters are tagged with n
    alone. A smaller network is therefore not p ⊙ x in the super-network: zeros do not make the norm of one level that
    of another.

    Args:
        norms: the norm of each level that runs one.
        super_level, max_level: see :class:`PartitionedModule`.
    """

    is_masked_by_zeros = False

    def __init__(self, norms: Mapping[int, nn.Module], super_level: int, max_level: int | None = None) -> None:
        super().__init__(super_level, max_level)
        for level, norm in norms.items():
            for parameter in norm.parameters():
                tag_levels(parameter, (level,))
            self.add_module(self.name_of(level), norm)

    @property
    def active(self) -> nn.Module:
        """The norm of the level that runs."""
        return cast(nn.Module, getattr(self, self.name_of(self.level)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the norm of the active level."""
        return self.active(x)

"""What every partitioned layer has: a level, and blocks of parameters that belong to levels."""

from __future__ import annotations

import re

from torch import Tensor, nn

from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.partition.tags import tag_levels


class PartitionedModule(nn.Module):
    """A layer that runs at a level, and whose parameters are split by level.

    A *block* is what one level adds to the levels below it: one parameter for each level and kind. The core's blocks
    are named ``core_*``, the super-network's ``extension_*``, and the blocks of the levels between the two
    ``extension_2_*``, ``extension_3_*``, ... A child module that belongs to one level is named alike, without a kind:
    ``core``, ``extension_2``, ..., ``extension``.

    Blocks are separate tensors and not slices of one tensor. A zero gradient is no mask for a slice: the optimizer's
    moments, its step count and weight decay would still move it.

    ``level`` says which network runs. It is a plain attribute and not a buffer: neither saved nor broadcast.

    Args:
        super_level: the level of the super-network, whether this layer holds it or not.
        max_level: the highest level to build, without any parameter above it: 1 is the core alone; None is the
            super-network.
    """

    # Whether zeros in the parameters above a level make the layer compute what it computes at that level.
    is_masked_by_zeros: bool = True

    def __init__(self, super_level: int, max_level: int | None = None) -> None:
        super().__init__()
        self.super_level = super_level
        self.max_level = super_level if max_level is None else max_level
        self.level = self.max_level

    def add_block(self, level: int, kind: str, value: Tensor | None) -> None:
        """Register what ``level`` adds as a parameter, and tag it with its levels.

        ``None``, and a block above ``max_level``, become a plain None: fairseq takes all empty parameter slots for one
        shared parameter, and logs each (fairseq/trainer.py, ``_catalog_shared_params``).
        """
        name = self._block_name(level, kind)
        if value is None or level > self.max_level:
            setattr(self, name, None)
            return
        parameter = nn.Parameter(value.detach().clone().contiguous())
        tag_levels(parameter, range(level, self.max_level + 1))
        self.register_parameter(name, parameter)

    def blocks(self, kind: str, level: int) -> list[Tensor]:
        """Return the blocks of one kind that ``level`` contains, from the core up."""
        return [self.block(kind, n) for n in range(CORE_LEVEL, level + 1)]

    def block(self, kind: str, level: int) -> Tensor:
        """Return the block that ``level`` itself adds."""
        return getattr(self, self._block_name(level, kind))

    def name_of(self, level: int) -> str:
        """Return the name of what ``level`` owns: ``core``, ``extension_2``, ..., ``extension``."""
        if level == CORE_LEVEL:
            return "core"
        return "extension" if level == self.super_level else f"extension_{level}"

    def _block_name(self, level: int, kind: str) -> str:
        return f"{self.name_of(level)}_{kind}"

    def _level_of_name(self, name: str) -> int:
        """Return the level that owns a parameter or buffer: a block (``fc1.extension_2_u``) or a child's."""
        match = re.search(r"(?:^|\.)extension(_(\d+))?[_.]", name)
        if match is None:
            return CORE_LEVEL
        return int(match.group(2)) if match.group(2) else self.super_level

    @property
    def held_levels(self) -> tuple[int, ...]:
        """The levels at which this layer can run."""
        return tuple(range(CORE_LEVEL, self.max_level + 1))

    def check_level(self, level: int) -> None:
        """Raise ValueError if this layer does not hold ``level``."""
        if level not in self.held_levels:
            held = ", ".join(map(str, self.held_levels))
            raise ValueError(f"level is {level}; this model holds level(s) {held}")

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Check this layer's part of a checkpoint before fairseq loads it, and drop the levels above this layer's.

        fairseq calls this for every layer, with the layer's dotted name. The levels above are dropped in every layer of
        the checkpoint, because fairseq renumbers layers afterwards (``--encoder-layers-to-keep``,
        fairseq/checkpoint_utils.py, ``prune_state_dict``).

        Raises:
            ValueError: the layer in the checkpoint has another partition.
        """
        for key in list(state_dict):
            if self._level_of_name(key) > self.max_level:
                del state_dict[key]
        for own_name, own in self.state_dict().items():
            saved = state_dict.get(f"{name}.{own_name}")
            if saved is None:
                raise ValueError(
                    f"the checkpoint has no {name}.{own_name}: it was written by a model with another partition "
                    "(--partitioned-linear-module-name, --max-level, or a model that is not partitioned)"
                )
            if saved.shape != own.shape:
                raise ValueError(
                    f"{name}.{own_name} is {tuple(saved.shape)} in the checkpoint and {tuple(own.shape)} in the model: "
                    "another --small-ratio or other sizes in --arch"
                )

    def extra_repr(self) -> str:
        return f"max_level={self.max_level}"

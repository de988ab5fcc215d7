"""Depth: a stack of layers of which each level runs some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.tags import levels_of, tag_levels


class PartitionedLayers(PartitionedModule, nn.ModuleList):
    r"""The encoder or decoder layers :math:`f_0, f_1, \ldots`, of which level l runs the set :math:`S_l`.

    .. math:: x \mapsto f_{i_n}(\cdots f_{i_1}(x)), \qquad S_l = \{i_1 < \cdots < i_n\}, \qquad S_1 \subseteq S_2 \cdots

    Not in the paper. In a pre-norm layer, :math:`x + g(x)`, where g ends with a projection, zeros in that projection
    make the layer the identity: running fewer layers is then p ⊙ x (Algorithm 2). A post-norm layer is not skipped by
    zeros; the two networks are then one of the paper's pairs of arbitrary networks (section 3.4).

    fairseq's encoder and decoder iterate over the list, as they do over a ``LayerDropModuleList``. Iteration, length
    and indices are those of the level that runs. Parameters keep the names that they have in the whole stack.

    Args:
        layers: all layers of the stack.
        chosen: the indices in S of each level below the super-network, from the core up.
        max_level: the highest level to build, without any layer that only levels above it run.
        zeros_skip: whether a layer whose parameters are all zero is the identity.
    """

    def __init__(
        self, layers: Sequence[nn.Module], chosen: Sequence[Sequence[int]], max_level: int, zeros_skip: bool
    ) -> None:
        super().__init__(len(chosen) + 1, max_level)
        self.chosen = (*map(tuple, chosen), tuple(range(len(layers))))
        self.is_masked_by_zeros = zeros_skip
        for index in self.chosen[max_level - 1]:
            self.add_module(str(index), layers[index])

    def __iter__(self) -> Iterator[nn.Module]:
        return (self._modules[str(index)] for index in self.chosen[self.level - 1])

    def __len__(self) -> int:
        return len(self.chosen[self.level - 1])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def levels_at(self, index: int) -> list[int]:
        """Return the levels, of those that the stack holds, that run the layer at ``index`` of the whole stack."""
        return [level for level in self.held_levels if index in self.chosen[level - 1]]

    @property
    def of_super_alone(self) -> list[nn.Module]:
        """The layers that no network below the super-network runs."""
        return [layer for name, layer in self._modules.items() if self.levels_at(int(name)) == [self.super_level]]

    def tag(self) -> None:
        """Tag the parameters of each layer with the levels that run it, and of a block in it with those of both."""
        for name, layer in self._modules.items():
            levels = self.levels_at(int(name))
            if levels != list(self.held_levels):
                for parameter in layer.parameters():
                    tag_levels(parameter, set(levels) & (levels_of(parameter) or set(levels)))

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Drop the layers of a checkpoint that only levels above this stack's run."""
        above = {str(index) for index in self.chosen[-1]} - self._modules.keys()
        for key in list(state_dict):
            if key.startswith(f"{name}.") and key.removeprefix(f"{name}.").partition(".")[0] in above:
                del state_dict[key]

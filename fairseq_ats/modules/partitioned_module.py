"""What every partitioned layer has in common: a level, and parameters owned by one level each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.folded_linear import linear_with_folded_weight
from fairseq_ats.partition import CORE_LEVEL

_LEVEL_TAG = re.compile(r"level(\d+)")


def tag_level(parameter: nn.Parameter, level: int) -> None:
    """Write on a parameter the lowest level that contains it.

    fairseq's ``param_group`` attribute is used because it is one of the few that FP16Optimizer copies from a
    parameter to its fp32 master (fairseq/optim/fp16_optimizer.py:73).
    """
    parameter.param_group = f"level{level}"


def parameter_level(parameter: nn.Parameter) -> int:
    """The lowest level that contains a parameter; untagged parameters belong to the core."""
    match = _LEVEL_TAG.fullmatch(getattr(parameter, "param_group", ""))
    return int(match.group(1)) if match else CORE_LEVEL


class PartitionedModule(nn.Module, ABC):
    """A linear layer whose parameters are split by level, one block of each kind for each level.

    Blocks named ``core_*`` are the core's. Those that the super-network adds to the highest level below it are named
    ``extension_*``, and those of a level between the two ``extension_2_*``, ``extension_3_*``, ... They are separate
    tensors and not slices of one: a slice that is masked by a zero gradient would still be moved by Adam's moments, by
    its scalar step count and by weight decay.

    ``level`` says which network runs. It is a plain attribute and not a buffer: neither saved nor broadcast.

    Args:
        in_features, out_features: of the full layer.
        sizes: what the partition makes smaller (rank or width), for each level below the super-network, from the core
            up. Two levels may have the same size in a layer: the block between them is then empty.
        max_level: the highest level to build, without any parameter above it: 1 is the core alone; None is the
            super-network.
    """

    def __init__(self, in_features: int, out_features: int, sizes: Sequence[int], max_level: int | None = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.sizes = tuple(sizes)
        self.super_level = len(self.sizes) + 1
        self.max_level = self.super_level if max_level is None else max_level
        self.level = self.max_level
        # For which level make_generation_fast_ folded.
        self.folded_level: int | None = None

    def add_block(self, level: int, kind: str, value: Tensor | None) -> None:
        """Register what ``level`` adds as a parameter, and tag its level.

        ``None``, and a block above ``max_level``, become a plain None: fairseq takes all empty parameter slots for one
        shared parameter, and logs each (fairseq/trainer.py, ``_catalog_shared_params``).
        """
        name = self._block_name(level, kind)
        if value is None or level > self.max_level:
            setattr(self, name, None)
            return
        parameter = nn.Parameter(value.detach().clone().contiguous())
        tag_level(parameter, level)
        self.register_parameter(name, parameter)

    def blocks(self, kind: str, level: int) -> list[Tensor]:
        """The blocks of one kind that ``level`` contains, from the core up."""
        return [self.block(kind, n) for n in range(CORE_LEVEL, level + 1)]

    def block(self, kind: str, level: int) -> Tensor:
        """What ``level`` itself adds."""
        return getattr(self, self._block_name(level, kind))

    def _block_name(self, level: int, kind: str) -> str:
        if level == CORE_LEVEL:
            return f"core_{kind}"
        return f"extension_{kind}" if level == self.super_level else f"extension_{level}_{kind}"

    def _level_of_block(self, name: str) -> int:
        """The inverse of :meth:`_block_name`."""
        if not name.startswith("extension_"):
            return CORE_LEVEL
        number = re.match(r"extension_(\d+)_", name)
        return int(number.group(1)) if number else self.super_level

    @abstractmethod
    def weight_at(self, level: int) -> Tensor:
        """The weight of ``level`` as one dense matrix (out, in)."""

    @abstractmethod
    def bias_at(self, level: int) -> Tensor | None:
        """The bias of ``level``."""

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
        """``weight @ x + bias`` of the active level; (*, in) → (*, out)."""
        return self.forward_folded(x) if self._is_folded else self.forward_level(x)

    def forward_level(self, x: Tensor) -> Tensor:
        """The same from the parameters as they are, by one product with the dense weight.

        A subclass may know a cheaper way for a level.
        """
        level = self.level  # as it is now; backward may come when another level is active
        return linear_with_folded_weight(x, lambda: self.weight_at(level), self.bias)

    def forward_folded(self, x: Tensor) -> Tensor:
        """The same at the level that was folded."""
        return F.linear(x, *self.folded())

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """The dense weight and the bias of the level that was folded."""
        return self._parameters["weight"], self._parameters["bias"]

    def fold(self, level: int) -> None:
        """Keep the dense weight of ``level``; a subclass may know something smaller."""
        self.hold("weight", self.weight_at(level))
        self.hold("bias", self.bias_at(level))

    def hold(self, name: str, value: Tensor | None) -> None:
        """Keep a copy of what was folded as a parameter."""
        # A stock layer's names are those of properties here, which register_parameter refuses.
        self._parameters[name] = None if value is None else nn.Parameter(value.detach().clone())

    def make_generation_fast_(self, **_options_of_other_modules: object) -> None:
        """fairseq's hook before decoding: fold the active level's weight once, and not in every step.

        What is folded becomes the layer's parameters, under a stock layer's names where the weight is dense: the state
        dict and the count of parameters are those of the network that runs. Every extension is let go, above the level
        too: the layer needs no more memory than a stock one and the core, which stays as buffers, is not saved, and can
        still run. A core is left as it is. The layer cannot be trained afterwards (fairseq/models/fairseq_model.py,
        ``make_generation_fast_``).
        """
        if self.level == CORE_LEVEL or self.folded_level is not None:
            return
        blocks = dict(self.named_parameters(recurse=False))
        self.fold(self.level)
        self.folded_level = self.level
        for name, block in blocks.items():
            delattr(self, name)
            if self._level_of_block(name) == CORE_LEVEL:
                self.register_buffer(name, block.detach(), persistent=False)
            else:
                setattr(self, name, None)

    def check_level(self, level: int) -> None:
        """Raises ValueError if this layer does not hold ``level``."""
        held = range(CORE_LEVEL, self.max_level + 1)
        if self.folded_level is not None:
            held = (CORE_LEVEL, self.folded_level)
        if level not in held:
            raise ValueError(f"level is {level}; this model holds level(s) {', '.join(map(str, held))}")

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """fairseq's hook before loading: keep what this layer holds, say plainly what does not fit.

        A network that is loaded from the checkpoint of a larger one leaves the extensions above it behind: in every
        layer of the checkpoint, since fairseq numbers layers anew afterwards (``--encoder-layers-to-keep``,
        fairseq/checkpoint_utils.py, ``prune_state_dict``).

        Raises:
            ValueError: the checkpoint's layer has another partition.
        """
        own = dict(self.named_parameters(recurse=False))
        for key in list(state_dict):
            if self._level_of_block(key.rpartition(".")[2]) > self.max_level:
                del state_dict[key]
        for local_name, parameter in own.items():
            saved = state_dict.get(f"{name}.{local_name}")
            if saved is None:
                raise ValueError(
                    f"the checkpoint has no {name}.{local_name}: it was written by a model with another partition "
                    "(--partitioned-linear-module-name, --max-level, or a model that is not partitioned)"
                )
            if saved.shape != parameter.shape:
                raise ValueError(
                    f"{name}.{local_name} is {tuple(saved.shape)} in the checkpoint and {tuple(parameter.shape)} in "
                    "the model: another --small-ratio or other sizes in --arch"
                )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, max_level={self.max_level}"


def join(blocks: Sequence[Tensor], dim: int, groups: int = 1) -> Tensor:
    """Lay blocks side by side along ``dim``, separately within each of ``groups`` equal groups.

    With one group this is ``cat``. With one group per attention head, the core's rows of each head come first.
    """
    if len(blocks) == 1:
        return blocks[0]
    if groups == 1:
        return torch.cat(list(blocks), dim)
    return torch.cat([block.unflatten(dim, (groups, -1)) for block in blocks], dim + 1).flatten(dim, dim + 1)


def divide(full: Tensor, sizes: Sequence[int], dim: int, groups: int = 1) -> list[Tensor]:
    """The inverse of :func:`join`: blocks whose first n reach the n-th of the ascending ``sizes``, and the rest."""
    grouped = full.unflatten(dim, (groups, -1))
    ends = [0, *(size // groups for size in sizes), grouped.shape[dim + 1]]
    blocks = grouped.split([end - start for start, end in pairwise(ends)], dim + 1)
    return [block.flatten(dim, dim + 1) for block in blocks]

"""What every partitioned layer has in common: a level, and parameters owned by one level each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.modules.folded_linear import linear_with_folded_weight
from fairseq_ats.partition import CORE_LEVEL, SUPER_LEVEL

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
    """A linear layer whose parameters are split by level.

    Parameters named ``core_*`` are the core's, parameters named ``extension_*`` are in the super-network only.
    They are separate tensors and not slices of one: a slice that is masked by a zero gradient would still be
    moved by Adam's moments, by its scalar step count and by weight decay.

    ``level`` says which network runs. It is a plain attribute and not a buffer: neither saved nor broadcast.

    Args:
        in_features, out_features: of the full layer.
        max_level: 1 builds the core alone, without any extension parameter.
    """

    def __init__(self, in_features: int, out_features: int, max_level: int = SUPER_LEVEL) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.max_level = max_level
        self.level = max_level
        self.register_buffer("folded_weight", None, persistent=False)
        self.register_buffer("folded_bias", None, persistent=False)

    def add_parameter(self, name: str, value: Tensor | None) -> None:
        """Register a parameter under a ``core_`` or ``extension_`` name, and tag its level.

        ``None``, and an extension that ``max_level`` leaves out, become a plain None: fairseq takes all empty parameter
        slots for one shared parameter, and logs each (fairseq/trainer.py, ``_catalog_shared_params``).
        """
        level = SUPER_LEVEL if name.startswith("extension_") else CORE_LEVEL
        if value is None or level > self.max_level:
            setattr(self, name, None)
            return
        parameter = nn.Parameter(value.detach().clone().contiguous())
        tag_level(parameter, level)
        self.register_parameter(name, parameter)

    @abstractmethod
    def weight_at(self, level: int) -> Tensor:
        """The weight of ``level`` as one dense matrix (out, in)."""

    @abstractmethod
    def bias_at(self, level: int) -> Tensor | None:
        """The bias of ``level``."""

    @property
    def weight(self) -> Tensor:
        """The dense weight of the active level."""
        return self.folded_weight if self._is_folded else self.weight_at(self.level)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the active level."""
        return self.folded_bias if self._is_folded else self.bias_at(self.level)

    @property
    def _is_folded(self) -> bool:
        return self.level == SUPER_LEVEL and self.folded_weight is not None

    def forward(self, x: Tensor) -> Tensor:
        """``weight @ x + bias`` of the active level; (*, in) → (*, out)."""
        if self._is_folded:
            return F.linear(x, self.folded_weight, self.folded_bias)
        return self.forward_level(x)

    def forward_level(self, x: Tensor) -> Tensor:
        """The same from the parameters as they are, by one product with the dense weight.

        A subclass may know a cheaper way for a level.
        """
        level = self.level  # as it is now; backward may come when another level is active
        return linear_with_folded_weight(x, lambda: self.weight_at(level), self.bias)

    def make_generation_fast_(self, **_options_of_other_modules: object) -> None:
        """fairseq's hook before decoding: fold the super-network's weight once, and not in every step.

        The extension is let go: the layer needs no more memory than a stock one and the core, which stays. It cannot be
        trained or saved afterwards (fairseq/models/fairseq_model.py, ``make_generation_fast_``).
        """
        if self.level != SUPER_LEVEL or self.folded_weight is not None:
            return
        bias = self.bias
        self.folded_weight = self.weight.detach().clone()
        self.folded_bias = None if bias is None else bias.detach().clone()
        for name in [name for name, _ in self.named_parameters(recurse=False) if name.startswith("extension_")]:
            delattr(self, name)
            setattr(self, name, None)

    def check_level(self, level: int) -> None:
        """Raises ValueError if this layer does not hold ``level``."""
        if not CORE_LEVEL <= level <= self.max_level:
            held = ", ".join(str(n) for n in range(CORE_LEVEL, self.max_level + 1))
            raise ValueError(f"level is {level}; this model holds level(s) {held}")

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """fairseq's hook before loading: keep what this layer holds, say plainly what does not fit.

        A core that is loaded from a super-network's checkpoint leaves the extension behind.

        Raises:
            ValueError: the checkpoint's layer has another partition.
        """
        own = dict(self.named_parameters(recurse=False))
        for key in [k for k in state_dict if k.startswith(f"{name}.extension_")]:
            if self.max_level == CORE_LEVEL:
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


def join(core: Tensor, extension: Tensor, dim: int, groups: int = 1) -> Tensor:
    """Lay core and extension side by side along ``dim``, separately within each of ``groups`` equal groups.

    With one group this is ``cat``. With one group per attention head, the core's rows of each head come first.
    """
    if groups == 1:
        return torch.cat([core, extension], dim)
    joined = torch.cat([t.unflatten(dim, (groups, -1)) for t in (core, extension)], dim + 1)
    return joined.flatten(dim, dim + 1)


def divide(full: Tensor, core_size: int, dim: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`join`: the first ``core_size / groups`` of each group, and the rest."""
    grouped = full.unflatten(dim, (groups, -1))
    size = core_size // groups
    rest = grouped.shape[dim + 1] - size
    core, extension = grouped.split([size, rest], dim + 1)
    return core.flatten(dim, dim + 1), extension.flatten(dim, dim + 1)

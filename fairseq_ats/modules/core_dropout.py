"""Give the core a dropout of its own (``--core-dropout``); a small network wants less. This is not in the paper."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.dropout import FastDropout
from fairseq_ats.modules.levels import partitioned_modules
from fairseq_ats.partition.partition import CORE_LEVEL


class _DropoutOfCore(PartitionedModule):
    """A dropout module whose probability depends on the network that runs.

    Args:
        core_p: the core's probability. The other networks have the module's own.
    """

    core_p: float

    @property
    def p(self) -> float:
        """The probability, for whoever reads it: the module itself, or attention, which drops by a fused kernel."""
        return self.core_p if self.level == CORE_LEVEL else self.__dict__["p"]


class _FastDropoutOfCore(_DropoutOfCore, FastDropout):
    pass


class _Dropout2dOfCore(_DropoutOfCore, nn.Dropout2d):  # type: ignore[override]  # nobody sets p
    pass


_KINDS: dict[type[nn.Module], type[_DropoutOfCore]] = {
    FastDropout: _FastDropoutOfCore,
    nn.Dropout2d: _Dropout2dOfCore,
}


def use_core_dropout_(model: nn.Module, p: float) -> None:
    """Make every dropout of a partitioned model that is on drop with probability ``p`` when the core runs, in place.

    The other networks compute and draw what they did.

    Raises:
        ValueError: no dropout of the model is on.
    """
    dropouts: list[Any] = [m for m in model.modules() if type(m) in _KINDS]
    dropouts = [m for m in dropouts if m.p > 0]
    if not dropouts:
        raise ValueError(
            f"--core-dropout is {p}, which takes the place of the model's dropout in its core, and the model has none; "
            "allowed: with --dropout above 0"
        )
    layer = partitioned_modules(model)[0]
    for dropout in dropouts:
        dropout.__class__ = _KINDS[type(dropout)]
        dropout.super_level, dropout.max_level, dropout.level = layer.super_level, layer.max_level, layer.level
        dropout.core_p = p

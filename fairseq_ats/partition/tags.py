"""Say on a parameter which levels it belongs to."""

from __future__ import annotations

import re

from torch import nn

from fairseq_ats.partition.partition import CORE_LEVEL

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

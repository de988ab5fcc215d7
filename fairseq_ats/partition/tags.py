"""Tag each parameter with the levels that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from torch import nn

_TAG = re.compile(r"levels\d+(_\d+)*")


def tag_levels(parameter: nn.Parameter, levels: Iterable[int]) -> None:
    """Tag a parameter with the levels that it belongs to.

    A block of a layer belongs to its own level and to all levels above it. A norm that only one
    network uses belongs to that network's level alone.

    The tag is stored in fairseq's attribute ``param_group``. FP16Optimizer copies this attribute, and few others, from
    a parameter to its fp32 master (fairseq/optim/fp16_optimizer.py:73). Checkpoints do not save the tag, and
    ``copy.deepcopy`` loses it.
    """
    parameter.param_group = "levels" + "_".join(map(str, sorted(levels)))  # type: ignore[attr-defined]  # fairseq's


def levels_of(parameter: nn.Parameter) -> frozenset[int] | None:
    """Return the levels that a parameter belongs to; None if it has no tag, because it then belongs to every level."""
    return _parsed(getattr(parameter, "param_group", ""))


def holds(parameter: nn.Parameter, level: int) -> bool:
    """Return whether a parameter belongs to the network of ``level``."""
    levels = levels_of(parameter)
    return levels is None or level in levels


@cache
def _parsed(tag: str) -> frozenset[int] | None:
    if not _TAG.fullmatch(tag):
        return None
    return frozenset(map(int, tag.removeprefix("levels").split("_")))

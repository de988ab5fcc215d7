"""What updates of alternating training must and must not move, in what :func:`instrumented.record_updates` recorded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from fairseq_ats.partition.tags import levels_of

Record = dict[str, Any]


def lowest_level(parameter: nn.Parameter) -> int:
    """The level that adds a parameter; an untagged one is the core's."""
    return min(levels_of(parameter) or {1})


def check_in_step(workers: Sequence[list[Record]], updates: Sequence[int]) -> None:
    """Each worker made these updates, moved nothing but the core in odd ones, and holds the same bits as the others.

    Weights, the optimizer's copies of them in higher precision, both moments and the step count.
    """
    for records in workers:
        assert [record["updates"] for record in records] == list(updates)
        for before, after in pairwise(records):
            skipped = before["updates"] == after["updates"]
            for name, tensors in after["moved"].items():
                masked = "extension_" in name and before["updates"] % 2 == 1
                if name.endswith("k_proj.core_bias") and not (masked or skipped):
                    continue  # its gradient is rounding alone, in half precision perhaps none
                for kind, value in tensors.items():
                    same = torch.equal(value, before["moved"][name][kind])
                    assert same == (masked or skipped), (after["updates"], name, kind)
    first, *others = workers
    for records in others:
        for mine, theirs in zip(first, records, strict=True):
            for name, tensors in mine["moved"].items():
                for kind, value in tensors.items():
                    assert torch.equal(value, theirs["moved"][name][kind]), (mine["updates"], name, kind)

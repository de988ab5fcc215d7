"""What is in checkpoints: whether two are the same, bit for bit, and whether core updates moved the core alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_ats.checkpoints.reading import partition_of, read_header
from fairseq_ats.partition.partition import Partition

# Of time, and so different in every run: meters of fairseq's, and what a checkpoint says about the process.
TIMES = {"TimeMeter", "StopwatchMeter"}
OF_THE_PROCESS = {"cfg", "previous_training_time"}


def load(path: Path) -> dict[str, Any]:
    """As a user's own script would: importing the plugin is what makes the file readable."""
    return torch.load(path, map_location="cpu", weights_only=True)


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ in anything but time."""
    if path == "/optimizer_history":  # one entry for each start of the process
        left, right = left[-1], right[-1]
    if path == "/optimizer_history/lr_scheduler_state":
        # fairseq notes the best loss after the save at the end of an epoch (fairseq_cli/train.py:210), and not again on
        # a restart. Only reduce_lr_on_plateau makes use of it.
        left, right = ({name: value for name, value in state.items() if name != "best"} for state in (left, right))
    if path.startswith("/extra_state/metrics/") and isinstance(left, list):
        left, right = ({m[1]: m for m in meters if m[2] not in TIMES} for meters in (left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        names = (left.keys() | right.keys()) - OF_THE_PROCESS
        missing = [f"{path}/{name}" for name in sorted(names, key=str) if (name in left) != (name in right)]
        common = sorted(names & left.keys() & right.keys(), key=str)
        return missing + [d for name in common for d in differences(left[name], right[name], f"{path}/{name}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}/{i}")]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same = left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        same = np.array_equal(left, right)
    else:
        same = type(left) is type(right) and left == right
    return [] if same else [path]


def check_mask(directory: Path, updates: int) -> None:
    """Across each odd update: the extension's weights, moments and step counts bit-identical; the core's not."""
    states = [load(directory / f"checkpoint_1_{n}.pt") for n in range(1, updates + 1)]
    names = [name for name in states[0]["model"] if name not in ("encoder.version", "decoder.version")]
    seen = set()
    for number, (before, after) in enumerate(pairwise(states), start=1):
        for name in names:
            same = torch.equal(before["model"][name], after["model"][name])
            masked = "extension_" in name and number % 2 == 1
            assert same == masked, f"update {number}: {name}"
            seen.add((masked, number % 2))
        steps = [state["last_optimizer_state"]["state"] for state in (before, after)]
        advanced = [steps[1][i]["step"] - steps[0][i]["step"] for i in steps[0]]
        extensions = sum("extension_" in name for name in names)
        assert advanced.count(0) == (extensions if number % 2 == 1 else 0)
        for i, step in enumerate(advanced):
            for moment in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(steps[0][i][moment], steps[1][i][moment]) == (step == 0)
    assert seen == {(True, 1), (False, 1), (False, 0)}


def read_partition(path: str) -> Partition | None:
    """Return the partition of the checkpoint at ``path``."""
    return partition_of(read_header(path).get("task_state"))

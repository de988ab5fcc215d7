"""Whether two trainings are in the same state, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

# Of time, and so different in every run: meters of fairseq's, and what a checkpoint says about the process.
TIMES = {"TimeMeter", "StopwatchMeter"}
OF_THE_PROCESS = {"cfg", "previous_training_time"}


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ in anything but time."""
    if path == "/optimizer_history":  # one entry for each start of the process
        left, right = left[-1], right[-1]
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

"""Fair timing on a busy machine: contestants take turns, and only ratios within a round count."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def seconds_of(action: Callable[[], object], device: str) -> float:
    """Wall time of ``action``, with the work that it leaves on a GPU."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rotated(contestants: Sequence, number: int) -> list:
    """The turns of round ``number``: another contestant is first in each, so that none has the warm caches always."""
    shift = number % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


def ratio_column(seconds: Sequence[float], reference: Sequence[float]) -> str:
    """Median and quartiles of the ratios round by round."""
    low, middle, high = quartiles([s / r for s, r in zip(seconds, reference, strict=True)])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def hardware(device: str, threads: int) -> str:
    """One line for the record."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    special = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = models[0] if models else platform.processor()
    return f"{name} ({' '.join(special)}), {threads} thread(s), torch {torch.__version__}"

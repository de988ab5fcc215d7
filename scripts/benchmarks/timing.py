"""Measure time and memory on a busy machine: contestants take turns, and only ratios within a round are compared."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.profiler import ProfilerActivity, profile


def seconds_of(action: Callable[[], object], device: str) -> float:
    """Return the wall time of ``action``, including the GPU work that it starts."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rotated(contestants: Sequence, number: int) -> list:
    """Return the order of round ``number``. The first contestant changes, so that no one always has warm caches."""
    shift = number % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


def ratio_column(seconds: Sequence[float], reference: Sequence[float]) -> str:
    """Return the median and the quartiles of the ratios in each round, as text."""
    low, middle, high = quartiles([s / r for s, r in zip(seconds, reference, strict=True)])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


@contextlib.contextmanager
def peak_of_allocations(device: str) -> Iterator[list[int]]:
    """Yield a list whose element is, on exit, the peak of allocated bytes minus the bytes allocated on entry."""
    peak = [0]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated() - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        yield peak
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak[0] = max(peak[0], now)

"""Measure time and memory on a busy machine: contestants take turns, and only ratios within a round are compared."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Seconds(NamedTuple):
    """Seconds of wall time, and of all threads' CPU time in this process. CPU time is steadier on a busy machine."""

    wall: float
    cpu: float


def seconds_of(action: Callable[[], object], device: str) -> Seconds:
    """Return the time of ``action``; the wall time includes the GPU work that it starts."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    _wait(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


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

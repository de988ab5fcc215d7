"""A worker that is short of memory logs what the other workers log."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq_ats.training.out_of_memory import OutOfMemoryGuard, StepResult

Build = Callable[..., SimpleNamespace]


def fails() -> StepResult:
    raise RuntimeError("CUDA out of memory, as if")


def test_a_step_that_logs_more_than_those_before() -> None:
    """Without its names the workers would add up buffers of different lengths, and wait for ever."""
    guard, optimizer = OutOfMemoryGuard(2, reduces_afterwards=True), torch.optim.SGD([torch.zeros(1)], 0.1)
    guard(lambda: (torch.ones(()), 3, {"loss": 2.0}), optimizer, "plain")
    assert guard(fails, optimizer, "plain") == (torch.zeros(()), 0, {"loss": 0.0})
    with pytest.raises(RuntimeError, match="a worker is short of memory and the others cannot go on"):
        guard(fails, optimizer, "distilled")


def test_distilled_updates_log_more(build: Build, batch: Any) -> None:
    """From the update on at which distillation begins; by what each update logs."""
    built = build("--alternate", "--small-ratio", "0.25", "--distillation-weight", "0.5", "--distillation-from", "2")
    logged: dict[Any, set[str]] = {}

    def guard(step: Callable[[], StepResult], optimizer: Any, logs: Any) -> StepResult:
        result = step()
        assert logged.setdefault(logs, set(result[2])) == set(result[2])
        return result

    built.task.out_of_memory_guard = guard
    optimizer = SimpleNamespace(backward=torch.Tensor.backward)
    for number in range(5):
        built.task.train_step(batch, built.model, built.criterion, optimizer, number)
    assert len(logged) == 3, "super-network, core, and core with a teacher"

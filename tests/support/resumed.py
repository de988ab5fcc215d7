"""A training that stops and is resumed, beside one that does not stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.trainer import Trainer


def check_resumed(
    build: Callable[..., SimpleNamespace], options: Sequence[str], batch: Any, path: Path, stop: int, end: int
) -> Trainer:
    """Save after ``stop`` updates to ``path``, go on to ``end`` in a new trainer, and return that.

    Its weights are bit for bit those of a run that does not stop.
    """

    def trainer(*more: str) -> Trainer:
        built = build(*options, *more)
        return Trainer(built.cfg, built.task, built.model, built.criterion)

    whole, stopped = trainer(), trainer()
    for run, updates in ((whole, end), (stopped, stop)):
        for _ in range(updates):
            run.train_step([batch])
    stopped.consolidate_optimizer()
    stopped.save_checkpoint(str(path), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}})
    resumed = trainer("--restore-file", str(path))
    resumed.load_checkpoint(str(path))
    for _ in range(end - stop):
        resumed.train_step([batch])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    return resumed

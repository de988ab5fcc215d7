"""Hold a checkpoint as a value, so that each command reads and checks it only once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ats.checkpoints.keys import STOCK_TASK_NAME, TASK_NAME, TASK_NAMES
from fairseq_ats.checkpoints.reading import partition_of, read_checked, updates_of
from fairseq_ats.checkpoints.saved_options import saved_options
from fairseq_ats.partition.partition import Partition


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a task of this plugin, or of stock fairseq's translation task.

    Args:
        path: the file.
        state: the dictionary in the file. Its tensors stay on disk until they are used.
        partition: the partition of the model; None for a checkpoint of stock fairseq.
    """

    path: Path
    state: dict[str, Any]
    partition: Partition | None

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Read the file, and compare every byte of it with its checksums.

        Raises:
            ValueError: the file is damaged, cannot be read, or carries code; it was trained with another task; it has
                no options or has them twice; or its task and its partition contradict each other.
        """
        state = read_checked(str(path))
        if (state.get("cfg") is None) == (state.get("args") is None):
            # With both, fairseq builds the model from args (fairseq/checkpoint_utils.py:451), but the checks read cfg.
            found = "no options" if state.get("cfg") is None else "its options twice"
            raise ValueError(f"{path} was not written by fairseq-train: it has {found}; allowed: cfg or args")
        options = saved_options(state, "task")
        task = options.get("_name") or options.get("task")
        if task not in (STOCK_TASK_NAME, *TASK_NAMES):
            allowed = ", ".join((STOCK_TASK_NAME, *TASK_NAMES))
            raise ValueError(f"{path} was trained with --task {task}; allowed: {allowed}")
        partition = partition_of(state.get("task_state"))
        if (partition is not None) != (task in TASK_NAMES):
            has = "no partition" if partition is None else "a partition"
            raise ValueError(f"{path} was trained with --task {task} and has {has}; it was changed afterwards")
        return cls(Path(path), state, partition)

    @property
    def task_name(self) -> str:
        """The task that it was trained with."""
        options = self.options("task")
        return options.get("_name") or options.get("task") or ""

    def level_of(self, network: str | int) -> int:
        """Return the level of a network that the checkpoint holds.

        Raises:
            ValueError: the checkpoint is stock fairseq's, or does not hold the network.
        """
        if self.partition is None:
            raise ValueError(f"{self.path} was not written by --task {TASK_NAME}")
        level = self.partition.level_of(network)
        if level not in self.partition.levels:
            held = ", ".join(map(str, self.partition.levels))
            raise ValueError(f"--level is {level}; allowed: {held}, the levels that {self.path} holds")
        return level

    def options(self, group: str) -> dict[str, Any]:
        """Return one group of the training's options, such as "model" or "task"."""
        return saved_options(self.state, group)

    @property
    def updates(self) -> int:
        """The number of updates that the run had made when it wrote the checkpoint."""
        return updates_of(self.state)

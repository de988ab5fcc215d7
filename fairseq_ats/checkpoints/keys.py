"""What the plugin saves in a checkpoint, and under which keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Under which a training saves its task: this plugin's tasks, and fairseq's own.
TASK_NAME = "translation_with_partitioned_model"
TASK_NAMES = (TASK_NAME,)
STOCK_TASK_NAME = "translation"

# In the task's state.
PARTITION_KEY = "partition"
DICTIONARIES_KEY = "dictionaries"
RUN_KEY = "run"  # not in checkpoints of older versions

# In the extra state: what --patience has counted, and what is saved of each network whose best checkpoint the plugin
# keeps. fairseq asks for the second under the name of the task's class (fairseq/checkpoint_utils.py:293).
PATIENCE_KEY = "patience"
TASK_CLASSES = ("TranslationWithPartitionedModelTask",)

# What is saved of one network: its metric, the best value so far, and the value of this checkpoint.
State = dict[str, float | str | None]


def states_of(extra_state: Mapping[str, Any]) -> list[State]:
    """Return what a checkpoint's extra state has of each network. A single network is saved without a list."""
    saved: State | list[State] = next((extra_state[name] for name in TASK_CLASSES if name in extra_state), [])
    return saved if isinstance(saved, list) else [saved]


def as_saved(states: list[State]) -> State | list[State]:
    """Return what is saved for :func:`states_of` to read.

    A run without another network saves an empty state. fairseq calls ``set_checkpoint_dict`` on a resume, where
    metrics are brought back, only if the task saved something (fairseq/checkpoint_utils.py:294).
    """
    states = states or [{"metric": None, "best": None, "value": None}]
    return states[0] if len(states) == 1 else states

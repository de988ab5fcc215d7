"""Name the keys under which the plugin saves its values in a checkpoint, and convert the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The names of the tasks in a checkpoint's options: this plugin's tasks, and fairseq's own translation task.
TASK_NAME = "translation_with_partitioned_model"
IMAGE_TASK_NAME = "image_classification_with_partitioned_model"
TASK_NAMES = (TASK_NAME, IMAGE_TASK_NAME)
STOCK_TASK_NAME = "translation"

# Keys in the task's state.
PARTITION_KEY = "partition"
DICTIONARIES_KEY = "dictionaries"
IMAGES_KEY = "images"
RUN_KEY = "run"  # absent in checkpoints of older versions
SCHEME_KEY = "scheme"  # what a scheme keeps of earlier updates; absent where it keeps nothing

# Keys in the extra state: the count of --patience, and the state of each network whose best checkpoint the plugin
# keeps. fairseq looks up that state under the name of the task's class (fairseq/checkpoint_utils.py:293).
PATIENCE_KEY = "patience"
TASK_CLASSES = ("TranslationWithPartitionedModelTask", "ImageClassificationWithPartitionedModelTask")

# The saved state of one network: its metric, the best value so far, and the value of this checkpoint.
State = dict[str, float | str | None]


def states_of(extra_state: Mapping[str, Any]) -> list[State]:
    """Return the saved states of the networks in a checkpoint's extra state.

    Put the state of a single network into a list, because it is saved without one.
    """
    saved: State | list[State] = next((extra_state[name] for name in TASK_CLASSES if name in extra_state), [])
    return saved if isinstance(saved, list) else [saved]


def as_saved(states: list[State]) -> State | list[State]:
    """Return the states in the form in which they are saved and :func:`states_of` reads them.

    Return a state of empty values if there are no states. On a resume fairseq calls ``set_checkpoint_dict``, which
    restores the metrics, only if the task saved something (fairseq/checkpoint_utils.py:294).
    """
    states = states or [{"metric": None, "best": None, "value": None}]
    return states[0] if len(states) == 1 else states

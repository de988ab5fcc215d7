"""Build one network of a checkpoint that classifies images."""

from __future__ import annotations

from typing import Any

from fairseq import checkpoint_utils
from torch import nn

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME, IMAGES_KEY
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.tasks.image_classification_with_partitioned_model import (
    ImageClassificationWithPartitionedModelTask,
    PartitionedImageConfig,
)


def load_image_network(checkpoint: Checkpoint, level: int | None = None) -> tuple[Any, nn.Module]:
    """Build the task and the model of a checkpoint; no folder of images is needed.

    Args:
        level: the number of the network; None means the highest.

    Raises:
        ValueError: another task wrote the checkpoint, it does not contain the level, or its model cannot be built.
    """
    if checkpoint.task_name != IMAGE_TASK_NAME:
        raise ValueError(
            f"{checkpoint.path} was trained with --task {checkpoint.task_name}; allowed: {IMAGE_TASK_NAME}"
        )
    data = ImageData.of(checkpoint.path, lambda: checkpoint.state["task_state"].get(IMAGES_KEY))
    # The config's references to options outside the task stay unresolved: only training reads them.
    task = ImageClassificationWithPartitionedModelTask(
        PartitionedImageConfig(max_level=level, path_to_decode=None), data
    )
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint.path)], task=task)
    except RuntimeError as error:  # torch raises it for parameters of other sizes
        raise ValueError(f"{checkpoint.path} does not fit its own options: {error}") from error
    return task, model.eval()

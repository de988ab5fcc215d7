"""One network of a checkpoint, ready to decode: for every command that reads a checkpoint.

Left alone, fairseq builds the task and the model that the file's options name, and passes options of some of them to
``eval``. Here nothing in a file chooses the task: it is made by this module, of options given here, and it builds no
model before :func:`~fairseq_ats.architectures.transformer.check_model_options` has seen its options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models.transformer import TransformerModelBase
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ats.architectures.transformer import check_model_options
from fairseq_ats.checkpoints.reading import check_sums, partition_of, read_header
from fairseq_ats.checkpoints.saved_options import forget_start_files_, saved_options
from fairseq_ats.data.checks import check_split, folder_of
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.partition.partition import Partition
from fairseq_ats.tasks import TASK_NAME
from fairseq_ats.tasks.translation_with_partitioned_model import (
    PartitionedTranslationConfig,
    TranslationWithPartitionedModelTask,
)

STOCK_TASK_NAME = "translation"


class _StockTask(TranslationTask):
    """fairseq's translation task, which builds what a checkpoint says only after a look at it."""

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        check_model_options(cfg)
        forget_start_files_(cfg)
        return super().build_model(cfg, from_checkpoint)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        dictionaries = [(self.cfg.source_lang, self.src_dict), (self.cfg.target_lang, self.tgt_dict)]
        check_split(folder_of(self.cfg.data, split, epoch, self.cfg.train_subset), split, dictionaries)
        super().load_dataset(split, epoch, combine, **kwargs)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], Partition | None]:
    """A checkpoint's dictionary, and its partition: None for one of stock fairseq's translation task.

    Raises:
        ValueError: the file is damaged, cannot be read, carries code, was trained with another task, or contradicts
            itself.
    """
    check_sums(str(path))
    checkpoint = read_header(str(path))
    if (checkpoint.get("cfg") is None) == (checkpoint.get("args") is None):
        # With both, fairseq builds from args (fairseq/checkpoint_utils.py:451), and cfg is what was looked at.
        found = "no options" if checkpoint.get("cfg") is None else "its options twice"
        raise ValueError(f"{path} was not written by fairseq-train: it has {found}; allowed: cfg or args")
    options = saved_options(checkpoint, "task")
    task = options.get("_name") or options.get("task")
    if task not in (STOCK_TASK_NAME, TASK_NAME):
        raise ValueError(f"{path} was trained with --task {task}; allowed: {STOCK_TASK_NAME}, {TASK_NAME}")
    partition = partition_of(checkpoint.get("task_state"))
    if (partition is not None) != (task == TASK_NAME):
        has = "no partition" if partition is None else "a partition"
        raise ValueError(f"{path} was trained with --task {task} and has {has}; it was changed afterwards")
    return checkpoint, partition


def load_network(
    path: str | Path, data: DataFolder, level: int | None = None
) -> tuple[TransformerModelBase, TranslationTask]:
    """Model and task of a checkpoint, with every parameter of the level.

    Args:
        data: has the dictionaries.
        level: None is the highest. A checkpoint of stock fairseq has no levels.

    Raises:
        ValueError: as :func:`read_checkpoint`; or the checkpoint does not hold the level, does not fit the data's
            dictionaries, or has a model that cannot be built.
    """
    _, partition = read_checkpoint(path)
    options = {"data": str(data.path), "source_lang": data.source_language, "target_lang": data.target_language}
    # Views of the options of data sets, which have no value in a task of its own; their defaults.
    options |= {"dataset_impl": None, "train_subset": "train", "required_seq_len_multiple": 1}
    if partition is None:
        task = _StockTask.setup_task(TranslationConfig(**options))
    else:
        # The config's views of options outside the task stay unresolved: they are for training.
        cfg = PartitionedTranslationConfig(**options, max_level=level, path_to_decode=None)
        task = TranslationWithPartitionedModelTask.setup_task(cfg, from_checkpoint=True)
    # Recomputed activations are for training, and cannot be traced.
    overrides = {"checkpoint_activations": False, "offload_activations": False}
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides, task)
    except RuntimeError as error:  # of torch, for parameters of other sizes
        raise ValueError(f"{path} does not fit the dictionaries in {data.path}, or its own options: {error}") from error
    return model.eval(), task


def prepare_to_decode(model: TransformerModelBase) -> None:
    """Do fairseq's own preparation; the model cannot be trained afterwards, and its parameters are of its level."""
    model.make_generation_fast_(need_attn=False)


def load_to_decode(
    path: str | Path, data: DataFolder, level: int | None = None
) -> tuple[TransformerModelBase, TranslationTask]:
    """As :func:`load_network`, prepared."""
    model, task = load_network(path, data, level)
    prepare_to_decode(model)
    return model, task

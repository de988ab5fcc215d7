"""Build one network of a checkpoint, ready to decode, for every command that decodes with a checkpoint.

fairseq builds whatever task and model a checkpoint names, and passes some of their options to ``eval``. This module
chooses the task itself, and checks the model's options first
(:func:`~fairseq_ats.architectures.transformer.check_model_options`).
"""

from __future__ import annotations

from typing import Any

from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModelBase
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ats.architectures.transformer import check_model_options
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.saved_options import forget_start_files_
from fairseq_ats.data.checks import check_split, folder_of, read_dictionary
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.tasks.translation_with_partitioned_model import (
    PartitionedTranslationConfig,
    TranslationWithPartitionedModelTask,
)


class _StockTask(TranslationTask):
    """fairseq's translation task, with checks before it builds a checkpoint's model or loads data."""

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        return read_dictionary(filename)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        check_model_options(cfg)
        forget_start_files_(cfg)
        return super().build_model(cfg, from_checkpoint)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        dictionaries = [(self.cfg.source_lang, self.src_dict), (self.cfg.target_lang, self.tgt_dict)]
        check_split(folder_of(self.cfg.data, split, epoch, self.cfg.train_subset), split, dictionaries)
        super().load_dataset(split, epoch, combine, **kwargs)


def load_network(
    checkpoint: Checkpoint, data: DataFolder, level: int | None = None
) -> tuple[TransformerModelBase, TranslationTask]:
    """Build the model and the task of a checkpoint, with all parameters of one level.

    Args:
        checkpoint: the checkpoint.
        data: the folder with the dictionaries.
        level: the number of the network; None means the highest. A checkpoint of stock fairseq has no levels.

    Raises:
        ValueError: the checkpoint does not contain the level, does not fit the dictionaries, or has a model that cannot
            be built; or a dictionary cannot be read.
    """
    path = checkpoint.path
    options: dict[str, Any] = {
        "data": str(data.path),
        "source_lang": data.source_language,
        "target_lang": data.target_language,
    }
    # By default these fields refer to options of the data sets. Outside a training the reference has no target, so set
    # the default values of the options.
    options |= {"dataset_impl": None, "train_subset": "train", "required_seq_len_multiple": 1}
    if checkpoint.partition is None:
        task = _StockTask.setup_task(TranslationConfig(**options))
    else:
        # The config's other references to options outside the task stay unresolved: only training reads them.
        cfg = PartitionedTranslationConfig(**options, max_level=level, path_to_decode=None)
        task = TranslationWithPartitionedModelTask.setup_task(cfg, from_checkpoint=True)
    # Recomputing activations only helps training, and such a model cannot be traced.
    overrides = {"checkpoint_activations": False, "offload_activations": False}
    try:
        (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides, task)
    except RuntimeError as error:  # torch raises it for parameters of other sizes
        raise ValueError(f"{path} does not fit the dictionaries in {data.path}, or its own options: {error}") from error
    return model.eval(), task


def prepare_to_decode(model: TransformerModelBase) -> None:
    """Prepare the model for decoding, as fairseq does, in place.

    Afterwards the model has only the parameters of its active level, and cannot be trained.
    """
    model.make_generation_fast_(need_attn=False)


def load_to_decode(
    checkpoint: Checkpoint, data: DataFolder, level: int | None = None
) -> tuple[TransformerModelBase, TranslationTask]:
    """Build the model and the task as :func:`load_network` does, and prepare the model for decoding."""
    model, task = load_network(checkpoint, data, level)
    prepare_to_decode(model)
    return model, task

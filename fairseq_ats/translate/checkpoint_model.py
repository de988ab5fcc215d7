"""The model of a checkpoint, built to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models.transformer import TransformerModelBase
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ats.data_folder import DataFolder
from fairseq_ats.partition import Partition
from fairseq_ats.surgery import check_model_options


class _StockTask(TranslationTask):
    """fairseq's translation task, which builds what a checkpoint says only after a look at it."""

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        check_model_options(cfg)
        return super().build_model(cfg, from_checkpoint)


def load_checkpoint(
    path: Path, partition: Partition | None, level: int | None, data: DataFolder
) -> tuple[TransformerModelBase, TranslationTask]:
    """One network of a checkpoint, of this plugin's task or of stock fairseq's translation task, and that task.

    Args:
        path: the checkpoint, which was read once already and found to carry no code.
        partition: the checkpoint's; None for a stock one.
        level: which network; None is the highest. A stock checkpoint has no levels.

    Raises:
        ValueError: the checkpoint does not hold the level, does not fit the data's dictionaries, or has a model that
            cannot be built.
    """
    options = {
        "data": str(data.path),
        "source_lang": data.source_language,
        "target_lang": data.target_language,
        # It would build one more generator, by options of the checkpoint.
        "eval_bleu": False,
    }
    task = _StockTask.setup_task(TranslationConfig(**options)) if partition is None else None
    overrides = options if level is None else options | {"max_level": level}
    try:
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides=overrides, task=task
        )
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the dictionaries in {data.path}, or its own options: {error}") from error
    model.prepare_for_inference_(cfg)
    return model, task

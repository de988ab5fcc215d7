"""The network that is converted: read from a checkpoint, built, and ready to decode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models.transformer import TransformerModelBase
from fairseq.tasks.translation import TranslationTask

from fairseq_ats.checkpoints import partition_of, read_header
from fairseq_ats.data_folder import DataFolder
from fairseq_ats.deployed_folder import NETWORK_LEVELS
from fairseq_ats.partition import CORE_LEVEL, Partition
from fairseq_ats.saved_options import saved_options

OUR_TASK = "translation_with_partitioned_model"


@dataclass(frozen=True)
class SourceNetwork:
    """One network of a checkpoint.

    Args:
        path: the checkpoint.
        checkpoint: what is in it.
        partition: the checkpoint's, with its highest level and not this network's.
        level: of this network.
        model: the partitioned model at that level, prepared for decoding: a core has no extension parameters, and a
            super-network has dense weights in their place.
        parameters: of the network before it was prepared.
        task: fairseq's task, with both dictionaries.
        data: the folder that they were read from.
        sentencepiece_model: which makes tokens of text; None if the network reads tokens.
    """

    path: Path
    checkpoint: dict[str, Any]
    partition: Partition
    level: int
    model: TransformerModelBase
    parameters: int
    task: TranslationTask
    data: DataFolder
    sentencepiece_model: Path | None

    @property
    def name(self) -> str:
        """ "core" or "super"."""
        return next(name for name, level in NETWORK_LEVELS.items() if level == self.level)

    @property
    def is_low_rank_core(self) -> bool:
        return self.level == CORE_LEVEL and self.partition.module_name == "PartitionedRankLinear"


def read_source(
    path: Path, level: int, data: Path | None = None, sentencepiece_model: Path | None = None
) -> SourceNetwork:
    """Read one network of the checkpoint at ``path``.

    Args:
        data: folder with the dictionaries of both languages; None is the one that the checkpoint was trained with.
        sentencepiece_model: None is the one in ``data``, if there is one.

    Raises:
        ValueError: a file that carries code, a checkpoint one of another task, a level that it does not hold, or no
            dictionaries.
    """
    checkpoint = read_header(str(path))
    partition = partition_of(checkpoint.get("task_state"))
    if partition is None or checkpoint["cfg"]["task"]["_name"] != OUR_TASK:
        raise ValueError(f"{path} was not written by --task {OUR_TASK}")
    if level not in partition.levels:
        held = ", ".join(str(n) for n in partition.levels)
        raise ValueError(f"--level is {level} and {path} holds level(s) {held}")
    folder = DataFolder.find(data, saved_options(checkpoint, "task"))
    if sentencepiece_model is None:
        sentencepiece_model = folder.sentencepiece_model
    elif not sentencepiece_model.is_file():
        raise ValueError(f"--sentencepiece-model is {sentencepiece_model}, which is no file")
    try:
        model, task = load(path, {"data": str(folder.path), "max_level": level})
    except RuntimeError as error:  # of torch, for parameters of other sizes
        raise ValueError(f"{path} does not fit the dictionaries in {folder.path}: {error}") from error
    parameters = sum(p.numel() for p in model.parameters())
    prepare_to_decode(model)
    return SourceNetwork(path, checkpoint, partition, level, model, parameters, task, folder, sentencepiece_model)


def load_to_decode(path: Path, overrides: dict[str, Any]) -> tuple[TransformerModelBase, TranslationTask]:
    """Model and task of a checkpoint, as ``fairseq-generate`` builds and prepares them."""
    model, task = load(path, overrides)
    prepare_to_decode(model)
    return model, task


def prepare_to_decode(model: TransformerModelBase) -> None:
    """fairseq's own preparation; the model cannot be trained or saved afterwards."""
    model.make_generation_fast_(need_attn=False)


def load(path: Path, overrides: dict[str, Any]) -> tuple[TransformerModelBase, TranslationTask]:
    """Model and task of a checkpoint, with every parameter of the level."""
    # BLEU in validation would build one more generator, from further options of the checkpoint; recomputed activations
    # are for training, and cannot be traced.
    for_training = {"eval_bleu": False, "checkpoint_activations": False, "offload_activations": False}
    overrides = for_training | overrides
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return model.eval(), task

"""Read one network of a checkpoint, build it, and prepare it for decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fairseq.models.transformer import TransformerModelBase
from fairseq.tasks.translation import TranslationTask

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.inference.loading import load_network, prepare_to_decode
from fairseq_ats.inference.pruned import prune_
from fairseq_ats.partition.partition import CORE, PERTURBED, SUPER, Partition
from fairseq_ats.partition.shares import RANK
from fairseq_ats.partition.tags import holds


@dataclass(frozen=True)
class SourceNetwork:
    """One network of a checkpoint.

    Args:
        checkpoint: the checkpoint that holds the network. Its partition has the checkpoint's highest level, not this
            network's level.
        level: this network's level.
        model: the partitioned model at ``level``, prepared for decoding. A core has no extension parameters. Any other
            network has folded weights in their place.
        parameters: the number of parameters before the model was prepared.
        task: fairseq's task, with both dictionaries.
        data: the folder with the dictionaries.
        sentencepiece_model: the file that cuts text into tokens; None if the network reads tokens.
        is_pruned: whether the network is what --scheme prune leaves of the one at ``level``.
    """

    checkpoint: Checkpoint
    level: int
    model: TransformerModelBase
    parameters: int
    task: TranslationTask
    data: DataFolder
    sentencepiece_model: Path | None
    is_pruned: bool

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def partition(self) -> Partition:
        return cast(Partition, self.checkpoint.partition)  # checked by read_source

    @property
    def name(self) -> str:
        """The network's name: "core", "super", "level2", ..., or "perturbed"."""
        return PERTURBED if self.is_pruned else self.partition.network_name(self.level)

    @property
    def title(self) -> str:
        titles = {CORE: "core", SUPER: "super-network", PERTURBED: "perturbed network"}
        return titles.get(self.name, f"level {self.level}")

    @property
    def is_low_rank(self) -> bool:
        """Whether the network has thin, low-rank layers. The layers of a super-network are dense."""
        return self.level != self.partition.super_level and self.partition.splits_by(RANK)


def read_source(
    path: Path, level: str | int, data: Path | None = None, sentencepiece_model: Path | None = None
) -> SourceNetwork:
    """Read one network of the checkpoint at ``path``.

    Args:
        level: the network's name, or its level's number; "perturbed": what --scheme prune leaves of the highest.
        data: folder with the dictionaries of both languages; None means the folder from the checkpoint's training.
        sentencepiece_model: None means the model in the data folder, if there is one.

    Raises:
        ValueError: the file carries code, another task wrote the checkpoint, the checkpoint does not hold the level,
            the dictionaries are missing, or ``sentencepiece_model`` is not a file.
    """
    checkpoint = Checkpoint.open(path)
    is_pruned = level == PERTURBED
    level = checkpoint.level_of(checkpoint.partition.max_level if is_pruned and checkpoint.partition else level)
    folder = DataFolder.find(data, checkpoint.options("task"))
    if sentencepiece_model is None:
        sentencepiece_model = folder.sentencepiece_model
    elif not sentencepiece_model.is_file():
        raise ValueError(f"--sentencepiece-model is {sentencepiece_model}, which is not a file")
    model, task = load_network(checkpoint, folder, level)
    parameters = sum(p.numel() for p in model.parameters() if holds(p, level))
    if is_pruned:
        parameters -= prune_(model, checkpoint)
    prepare_to_decode(model)
    return SourceNetwork(checkpoint, level, model, parameters, task, folder, sentencepiece_model, is_pruned)

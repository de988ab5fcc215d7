"""Translate with a super-network and the core, or several networks, inside it: data, dictionaries, padding."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.data import Dictionary
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq.utils import split_paths
from torch import Tensor

from fairseq_ats.architectures.layer_types import layer_type
from fairseq_ats.architectures.transformer import check_model_options, partition_model_
from fairseq_ats.architectures.transformer_parts import parts_of
from fairseq_ats.checkpoints.keys import DICTIONARIES_KEY, TASK_NAME
from fairseq_ats.data.checks import (
    buckets_problem,
    check_split,
    check_upsampling,
    dictionary_sum,
    folder_of,
    folder_problems,
    read_dictionary,
)
from fairseq_ats.data.core_targets import CoreTargets, check_core_data, with_core_targets
from fairseq_ats.options.checks.translation import translation_problems
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.training.chrf import WithChrf
from fairseq_ats.training.partitioned_task import PartitionedTask
from fairseq_ats.training.warm_start import start_from_stock_

logger = logging.getLogger(__name__)


@dataclass
class PartitionedTranslationConfig(PartitionedConfig, TranslationConfig):
    """The options of fairseq's translation task and of this plugin."""

    core_data: Optional[str] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate: binarised data whose targets the updates of smaller networks learn, with "
            "the sources and dictionaries of DATA, such as the translations of a trained super-network (fairseq-ats "
            "distil); default: as in the checkpoint of a resumed run, or the targets of DATA",
            "example": "--alternate --core-data runs/distilled",
        },
    )


@register_task(TASK_NAME, dataclass=PartitionedTranslationConfig)
class TranslationWithPartitionedModelTask(PartitionedTask, WithChrf):
    """``--task translation_with_partitioned_model``: ATS (Algorithm 2 of the paper) on any stock Transformer.

    For other schemes see :mod:`fairseq_ats.schemes.schedule`. The name of this class is a key in checkpoints.
    """

    cfg: PartitionedTranslationConfig

    check_model_options = staticmethod(check_model_options)
    partition_model_ = staticmethod(partition_model_)
    layer_type = staticmethod(layer_type)
    model_parts = staticmethod(parts_of)

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        return read_dictionary(filename)

    @classmethod
    def data_problems(cls, cfg: PartitionedTranslationConfig) -> list[str]:
        return folder_problems(cfg.data)

    @classmethod
    def training_problems(cls, cfg: PartitionedTranslationConfig) -> list[str]:
        return translation_problems(cfg)

    def start_from_stock_(self, model: Any) -> None:
        dictionaries = {self.cfg.source_lang: self.source_dictionary, self.cfg.target_lang: self.target_dictionary}
        start_from_stock_(model, self.options.start, self.partition, dictionaries)

    def data_state(self) -> dict[str, Any]:
        """Return a sum of each dictionary: other symbols, or another order, give token ids another meaning."""
        return {DICTIONARIES_KEY: {"source": dictionary_sum(self.src_dict), "target": dictionary_sum(self.tgt_dict)}}

    def check_same_data(self, saved: Mapping[str, Any], source: str) -> None:
        """Compare the dictionaries. A checkpoint of an older version does not say what they were.

        Raises:
            ValueError: the checkpoint has other dictionaries.
        """
        sums = saved.get(DICTIONARIES_KEY)
        if sums is not None and sums != self.data_state()[DICTIONARIES_KEY]:
            raise ValueError(
                f"{source} was trained with different dictionaries from those in {self.cfg.data}, so token ids would "
                "not match. Give the data that it was trained with, or data binarised with its dictionaries "
                "(fairseq-preprocess --srcdict, --tgtdict)"
            )

    def announce_network(self, name: str) -> None:
        """Name the network whose example fairseq prints next (fairseq/tasks/translation.py:493)."""
        if self.cfg.eval_bleu and self.cfg.eval_bleu_print_samples:
            logger.info(f"example of network {name}:")

    def counted(self, targets: Tensor, criterion: Any) -> Tensor:
        """Return which targets are no padding, and after the prefix of ``--ignore-prefix-size``."""
        counted = targets.ne(self.tgt_dict.pad())
        counted[:, : getattr(criterion, "ignore_prefix_size", 0)] = False
        return counted

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Check the files of a split, then load it as fairseq does.

        Raises:
            ValueError: binarised data are damaged, do not fit the dictionaries, or cannot be put together.
        """
        languages = self.cfg.source_lang, self.cfg.target_lang
        if combine:
            folders = split_paths(self.cfg.data)
            folders = folders if split == self.cfg.train_subset else folders[:1]  # as fairseq reads them
            check_upsampling(folders, split, *languages, self.cfg.upsample_primary)
        problem = buckets_problem(self.cfg.num_batch_buckets)  # that of a checkpoint's options, with fairseq-validate
        if problem is not None:
            raise ValueError(problem)
        dictionaries = list(zip(languages, (self.src_dict, self.tgt_dict), strict=True))
        check_split(folder_of(self.cfg.data, split, epoch, self.cfg.train_subset), split, dictionaries)
        super().load_dataset(split, epoch, combine, **kwargs)
        if self.cfg.core_data and split == self.cfg.train_subset and self.cfg.optimizer_name is not None:
            check_core_data(self.cfg.core_data, self.cfg.data, split, dictionaries)
            # As fairseq loads the data themselves, with all its options, from the other folder.
            other = copy.copy(self)
            other.cfg, other.datasets = copy.copy(self.cfg), {}
            other.cfg.data = self.cfg.core_data
            TranslationTask.load_dataset(other, split, epoch, combine, **kwargs)
            self.datasets[split] = CoreTargets(self.datasets[split], other.datasets[split])

    def sample_of(self, level: int, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the mini-batch with the targets of ``--core-data`` for a network below the super-network."""
        return sample if level == self.partition.max_level else with_core_targets(sample)

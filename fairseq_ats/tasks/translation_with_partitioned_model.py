"""Translation with a super-network and the core network inside it.

One update, in order: fairseq's trainer calls :meth:`train_step` with ``update_num``; the level of that update is set
on the partitioned layers while the stock task runs forward and backward; the trainer clips; :meth:`optimizer_step`
gives the optimizer the same level; :meth:`reduce_metrics` logs the loss under the network's name.
"""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from fairseq_ats.best_checkpoints import BestOfOtherNetwork
from fairseq_ats.checkpoints import PARTITION_KEY, partition_of, read_partition
from fairseq_ats.levels import level_of_update, set_level, use_level
from fairseq_ats.metrics import CORE, as_core, log_gradient_norm, reduce_by_network, split_networks
from fairseq_ats.option_checks import structure_problems, training_problems
from fairseq_ats.partition import (
    CORE_LEVEL,
    DEFAULT_MODULE_NAME,
    DEFAULT_SMALL_RATIO,
    MODULE_NAMES,
    SUPER_LEVEL,
    Partition,
)
from fairseq_ats.surgery import check_model_options, partition_model_

logger = logging.getLogger(__name__)


@dataclass
class PartitionedTranslationConfig(TranslationConfig):
    """The paper's options. None means "as in the checkpoint", or the default where there is no checkpoint."""

    partitioned_linear_module_name: Optional[ChoiceEnum(list(MODULE_NAMES))] = field(
        default=None,
        metadata={
            "help": "layer that replaces linear layers: PartitionedRankLinear (low-rank core) or PartitionedLinear "
            f"(small-width core); default: as in the checkpoint, or {DEFAULT_MODULE_NAME}"
        },
    )
    small_ratio: Optional[float] = field(
        default=None,
        metadata={
            "help": "r, size of the core's rank or width relative to the full layer, 0 < r < 1; default: as in the "
            f"checkpoint, or {DEFAULT_SMALL_RATIO}"
        },
    )
    alternate: bool = field(
        default=False,
        metadata={
            "help": "alternating training scheme: even updates train the super-network, odd updates run and move the "
            "core only"
        },
    )
    max_level: Optional[int] = field(
        default=None,
        metadata={
            "help": "network to train or decode: 1 is the core alone, 2 the super-network; default: the highest that "
            "there is"
        },
    )
    # Batches made anew from the seed and the epoch number in every epoch, so that a run resumed at the start of an
    # epoch sees the same batches as one that went on (fairseq/tasks/fairseq_task.py:310).
    # Not an option of ours: written as an interpolation, which fairseq does not make an option of.
    rebuild_batches: bool = "${oc.decode:'true'}"

    # Read-only views of other groups of fairseq's configuration, for the checks at start.
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    ddp_backend: Any = II("distributed_training.ddp_backend")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    find_unused_parameters: bool = II("distributed_training.find_unused_parameters")
    # While decoding there is no optimizer, and a plain view of it would not resolve.
    optimizer_name: Optional[str] = "${oc.select:optimizer._name,null}"


@register_task("translation_with_partitioned_model", dataclass=PartitionedTranslationConfig)
class TranslationWithPartitionedModelTask(TranslationTask):
    """``--task translation_with_partitioned_model``: ATS (Algorithm 2 of the paper) on any stock Transformer."""

    cfg: PartitionedTranslationConfig

    @classmethod
    def setup_task(
        cls, cfg: PartitionedTranslationConfig, from_checkpoint: bool = False
    ) -> "TranslationWithPartitionedModelTask":
        """Check the options before anything is read.

        Args:
            from_checkpoint: the options are those of a finished training, and a network of it is to be decoded.

        Raises:
            ValueError: every problem of the options, in one message.
        """
        problems = structure_problems(cfg)
        if not from_checkpoint:
            problems += training_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        return super().setup_task(cfg)

    def __init__(self, cfg: PartitionedTranslationConfig, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.partition: Partition | None = None
        self.best_of_other_network = BestOfOtherNetwork(cfg.best_checkpoint_metric, cfg.maximize_best_checkpoint_metric)

    # Structure: from the options in a new run, from the checkpoint everywhere else.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """fairseq's hook before a model is built from a checkpoint, once for each checkpoint of an ensemble."""
        super().load_state_dict({PARTITION_KEY: None, **state_dict})

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the stock model of ``--arch`` and partition it.

        Raises:
            ValueError: the model cannot be partitioned, or the checkpoint is of another structure.
        """
        check_model_options(cfg)
        model = super().build_model(cfg, from_checkpoint)
        source = "the checkpoint" if from_checkpoint else self._checkpoint_to_resume()
        if source is None:
            self.partition = Partition(**self._given_structure())
        else:
            saved = partition_of(self.state_dict()) if from_checkpoint else read_partition(source)
            if saved is None:
                raise ValueError(
                    f"{source} was not written by --task translation_with_partitioned_model; use it with the task that "
                    "trained it"
                )
            self.partition = self._reconciled(saved, source)
        swaps = partition_model_(model, self.partition, initialise=not from_checkpoint)
        set_level(model, self.partition.max_level)
        self.state.merge_state_dict({PARTITION_KEY: self.partition.to_dict()})
        logger.info(f"{swaps} linear layers replaced: {self.partition}")
        return model

    def _checkpoint_to_resume(self) -> str | None:
        """The file that fairseq is going to load (fairseq/checkpoint_utils.py:207), if there is one."""
        restore_file = self.cfg.restore_file
        if restore_file == "checkpoint_last.pt":
            restore_file = os.path.join(self.cfg.save_dir, restore_file)
        candidates = [restore_file, self.cfg.finetune_from_model]
        return next((path for path in candidates if path and os.path.isfile(path)), None)

    def _given_structure(self) -> dict[str, Any]:
        module_name = self.cfg.partitioned_linear_module_name
        given = {
            "module_name": None if module_name is None else str(module_name),
            "small_ratio": self.cfg.small_ratio,
            "max_level": self.cfg.max_level,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _reconciled(self, saved: Partition, source: str) -> Partition:
        """The checkpoint's structure, at the level that is asked for; options may repeat it and not change it."""
        given = self._given_structure()
        problems = [
            f"{option} is {given[name]} and {source} was trained with {getattr(saved, name)}; leave the option out"
            for name, option in (
                ("module_name", "--partitioned-linear-module-name"),
                ("small_ratio", "--small-ratio"),
            )
            if name in given and given[name] != getattr(saved, name)
        ]
        max_level = given.get("max_level", saved.max_level)
        if max_level > saved.max_level:
            problems.append(
                f"--max-level is {max_level} and {source} holds level {CORE_LEVEL} only: it is a core trained alone"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return Partition(saved.module_name, saved.small_ratio, max_level)

    # One update.

    def level_of_update(self, update_num: int) -> int:
        return level_of_update(update_num, self.partition.max_level, self.cfg.alternate)

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Forward and backward of the update's network, on one mini-batch."""
        level = self.level_of_update(update_num)
        with use_level(model, level):
            loss, sample_size, logging_output = super().train_step(
                sample, model, criterion, optimizer, update_num, ignore_grad
            )
        return loss, sample_size, self._under_own_name(logging_output, level)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Move the parameters of the update's network, and nothing else."""
        self.best_of_other_network.updated()
        if not self.cfg.alternate:
            super().optimizer_step(optimizer, model, update_num)
            return
        # .optimizer is the torch optimizer under each of fairseq's wrappers (fp16, memory-efficient fp16, amp).
        with optimizer.optimizer.at_level(self.level_of_update(update_num)):
            super().optimizer_step(optimizer, model, update_num)

    # Validation and logging.

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Validate every level that the model holds; loss and sample size returned are the highest level's."""
        merged: dict[str, Any] = {}
        for level in self.partition.levels:
            with use_level(model, level):
                loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
            merged.update(self._under_own_name(logging_output, level))
        return loss, sample_size, merged

    def _under_own_name(self, logging_output: dict[str, Any], level: int) -> dict[str, Any]:
        return logging_output if level == self.partition.max_level else as_core(logging_output)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        reduce_by_network(super().reduce_metrics, logging_outputs, criterion)
        if self.cfg.alternate:
            usual, _ = split_networks(logging_outputs)
            trained, other = ("super", CORE) if usual else (CORE, "super")
            log_gradient_norm(trained, other)

    # The best checkpoint of the network that --best-checkpoint-metric does not follow.

    @property
    def has_two_networks(self) -> bool:
        return self.partition.max_level == SUPER_LEVEL

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        if self.has_two_networks:
            self.best_of_other_network.validated(stats)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        if not self.has_two_networks:
            return {}
        return {type(self).__name__: self.best_of_other_network.state_to_save()}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        self.best_of_other_network.load_state(state)

    def post_save(self, checkpoint: str, num_updates: int) -> None:
        self.best_of_other_network.saved(checkpoint)

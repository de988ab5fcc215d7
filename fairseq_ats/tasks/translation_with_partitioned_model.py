"""Translation with a super-network and the core, or several networks, inside it.

One update, in order: fairseq's trainer calls :meth:`train_step` with ``update_num``; each level of that update, from
the highest down, is set on the partitioned layers while the stock task runs forward and backward; the trainer clips;
:meth:`optimizer_step` gives the optimizer the highest of these levels; :meth:`reduce_metrics` logs each loss under its
network's name.
"""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import gc
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from fairseq_ats.best_checkpoints import BestOfNetwork, as_saved, best_of_other_networks, states_of
from fairseq_ats.checkpoints import DICTIONARIES_KEY, PARTITION_KEY, check_sums, partition_of, read_header
from fairseq_ats.criteria_monitor import DROPOUTS, CriteriaMonitor, check_monitored
from fairseq_ats.data_checks import check_split, dictionary_sum, folder_of
from fairseq_ats.distillation import Distillation, Teacher, log_distillation
from fairseq_ats.importance import order_by_importance_
from fairseq_ats.levels import freeze_above, set_level, use_level
from fairseq_ats.metrics import HIGHEST, log_gradient_norm, reduce_by_network, split_networks, under_name
from fairseq_ats.option_checks import LAST_CHECKPOINT, LEGACY_DDP, partition_problems, training_problems
from fairseq_ats.out_of_memory import OutOfMemoryGuard
from fairseq_ats.partition import (
    CORE_LEVEL,
    DEFAULT_MODULE_NAME,
    DEFAULT_SMALL_RATIO,
    MODULE_NAMES,
    Partition,
    parse_small_ratio,
    reconciled,
)
from fairseq_ats.precision import AUTOCAST_DTYPES, check_autocast, in_autocast, step_unscaled
from fairseq_ats.resume import PATIENCE_KEY, patience_state, restore_metrics, restore_patience, why_finished
from fairseq_ats.saved_options import forget_start_files_
from fairseq_ats.schemes import (
    ALTERNATE,
    CORE_ALONE,
    SCHEMES,
    SCHEMES_OF_SEVERAL_NETWORKS,
    STANDARD,
    Schedule,
    name_of_scheme,
    schedule_of,
    scheme_of,
)
from fairseq_ats.super_start import CORE, SUPER_STARTS, start_as_core_, super_start_of
from fairseq_ats.surgery import check_model_options, partition_model_
from fairseq_ats.tasks import TASK_NAME
from fairseq_ats.warm_start import load_stock_weights_

logger = logging.getLogger(__name__)

INIT_ORDERS = ("unchanged", "importance")


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
    # A number, or several with commas between them: see parse_small_ratio.
    small_ratio: Optional[str] = field(
        default=None,
        metadata={
            "help": "r, size of the core's rank or width relative to the full layer, 0 < r < 1; several, ascending and "
            "with commas between them, make a network of each between the core and the super-network; default: as in "
            f"the checkpoint, or {DEFAULT_SMALL_RATIO}"
        },
    )
    scheme: Optional[ChoiceEnum(list(SCHEMES))] = field(
        default=None,
        metadata={
            "help": "what an update trains: the highest level (standard), the core, which is then the only network "
            "(core), one network in turn (alternate), or every network by the sum of their gradients (slimmable); "
            "default: standard"
        },
    )
    alternate: bool = field(
        default=False,
        metadata={
            "help": "alternating training scheme: even updates train the super-network, odd updates run and move the "
            "core only; the same as --scheme alternate"
        },
    )
    alternate_pattern: Optional[str] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate: how many updates in a row train each network, from the super-network "
            "down, as in 3:1; default: one each"
        },
    )
    super_only_updates: int = field(
        default=0,
        metadata={
            "help": "with --scheme alternate or slimmable: train the super-network alone in so many updates at first"
        },
    )
    core_only_from: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --scheme alternate or slimmable: train the core alone from this update on, counted from 0; "
            "default: never"
        },
    )
    distillation_weight: float = field(
        default=0.0,
        metadata={
            "help": "with --scheme alternate or slimmable: weight, from 0 to 1, of the super-network's soft targets in "
            "the loss of the smaller networks"
        },
    )
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "temperature of the soft targets of --distillation-weight"}
    )
    max_level: Optional[int] = field(
        default=None,
        metadata={
            "help": "network to train or decode: 1 is the core alone, 2 the super-network, or with several ratios the "
            "next larger one, and so on; default: the highest that there is"
        },
    )
    autocast: Optional[ChoiceEnum(list(AUTOCAST_DTYPES))] = field(
        default=None,
        metadata={
            "help": "matrix products of training in this precision, over float32 weights; for CPUs with bfloat16 "
            "instructions and for GPUs; default: the weights' precision"
        },
    )
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of a trained stock Transformer of the same --arch, with whose weights a new run "
            "begins; a resumed run goes on from its own"
        },
    )
    init_order: ChoiceEnum(list(INIT_ORDERS)) = field(
        default=INIT_ORDERS[0],
        metadata={
            "help": "with --init-from and a small-width core: put the important hidden neurons and key/query "
            "dimensions first, into the core (importance), or leave them as they are (unchanged)"
        },
    )
    init_super: Optional[ChoiceEnum(list(SUPER_STARTS))] = field(
        default=None,
        metadata={
            "help": "with a low-rank core: whether the super-network of a new run starts as the stock model (stock) or "
            "as its core, with W = 0 (core); default: core with --scheme alternate or slimmable, and stock otherwise"
        },
    )
    criteria_interval: int = field(
        default=0,
        metadata={
            "help": "measure the paper's convergence criteria (c_norm, c_sim, c_align, alpha_t, q_t) in updates 0, N, "
            "2N, ...; 0: never. Changes nothing in the training"
        },
    )
    criteria_dropout: ChoiceEnum(list(DROPOUTS)) = field(
        default=DROPOUTS[0],
        metadata={
            "help": "dropout of the two gradients that --criteria-interval compares: the same masks, those of the "
            "update (the paper's definition), different masks, or off"
        },
    )
    criteria_by_layer_type: bool = field(
        default=False,
        metadata={"help": "report the criteria of each layer type, too (encoder_fc1, decoder_cross_attn_qk, ...)"},
    )
    # Read-only views of other groups of fairseq's configuration, for the checks at start.
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    continue_once: Optional[str] = II("checkpoint.continue_once")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    reset_meters: bool = II("checkpoint.reset_meters")
    no_last_checkpoints: bool = II("checkpoint.no_last_checkpoints")
    write_checkpoints_asynchronously: bool = II("checkpoint.write_checkpoints_asynchronously")
    patience: int = II("checkpoint.patience")
    max_update: int = II("optimization.max_update")
    path_to_decode: Optional[str] = II("common_eval.path")
    use_bmuf: bool = II("optimization.use_bmuf")
    zero_sharding: Any = II("distributed_training.zero_sharding")
    ddp_backend: Any = II("distributed_training.ddp_backend")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    find_unused_parameters: bool = II("distributed_training.find_unused_parameters")
    cpu: bool = II("common.cpu")
    tpu: bool = II("common.tpu")
    fp16: bool = II("common.fp16")
    memory_efficient_fp16: bool = II("common.memory_efficient_fp16")
    fp16_no_flatten_grads: bool = II("common.fp16_no_flatten_grads")
    bf16: bool = II("common.bf16")
    memory_efficient_bf16: bool = II("common.memory_efficient_bf16")
    amp: bool = II("common.amp")
    # While decoding there is no optimizer, and a plain view of it would not resolve.
    optimizer_name: Optional[str] = "${oc.select:optimizer._name,null}"


@register_task(TASK_NAME, dataclass=PartitionedTranslationConfig)
class TranslationWithPartitionedModelTask(TranslationTask):
    """``--task translation_with_partitioned_model``: ATS (Algorithm 2 of the paper) on any stock Transformer.

    Other schemes, too: :mod:`fairseq_ats.schemes`.
    """

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
        problems = partition_problems(cfg)
        if not from_checkpoint:
            problems += training_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        return super().setup_task(cfg)

    def __init__(self, cfg: PartitionedTranslationConfig, src_dict: Any, tgt_dict: Any) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.partition: Partition | None = None
        self.schedule: Schedule | None = None
        self.best_of_other_networks: list[BestOfNetwork] = []
        self.criteria = CriteriaMonitor(cfg.criteria_interval, str(cfg.criteria_dropout), cfg.criteria_by_layer_type)
        self.out_of_memory_guard = OutOfMemoryGuard(
            cfg.distributed_world_size, reduces_afterwards=str(cfg.ddp_backend) in LEGACY_DDP
        )
        self._resumed_from: dict[str, Any] | None = None
        self._iterated: set[Any] = set()  # data sets of which there have been batches

    # The partition: from the options in a new run, from the checkpoint everywhere else.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """fairseq's hook before a model is built from a checkpoint, once for each checkpoint of an ensemble."""
        super().load_state_dict({PARTITION_KEY: None, DICTIONARIES_KEY: None, **state_dict})

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the stock model of ``--arch`` and partition it.

        Raises:
            ValueError: the model cannot be partitioned, or the checkpoint has another partition.
        """
        check_model_options(cfg)
        if self.cfg.autocast is not None and not from_checkpoint:
            check_autocast(cfg, str(self.cfg.autocast))
        given = self._given_partition()
        if scheme_of(self.cfg) == CORE_ALONE and not from_checkpoint:
            given["max_level"] = CORE_LEVEL
        source = "the checkpoint" if from_checkpoint else self._checkpoint_to_load()
        if from_checkpoint:
            # --model-overrides reaches the model's options; of the task's it changes the saved ones only.
            given.setdefault("max_level", getattr(cfg, "max_level", None))
            self._check_dictionaries(self.state_dict(), source)
            self.partition = reconciled(given, partition_of(self.state_dict()), source)
        elif source is None:
            self.partition = Partition(**given)
            self.best_of_other_networks = self._best_of_other_networks(self.partition)
        else:
            self.partition = self._continue_from(source, given)
        # What is decoded is not trained; its options may be those of a training of more networks.
        max_level = self.partition.max_level
        self.schedule = Schedule(STANDARD, max_level) if from_checkpoint else schedule_of(self.cfg, max_level)
        if self.cfg.criteria_interval and not from_checkpoint:
            check_monitored(cfg, self.partition.max_level)
        if source is not None:
            forget_start_files_(cfg)
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.init_from and not from_checkpoint:
            self._warm_start_(model, source)
        swaps = partition_model_(model, self.partition, initialise=source is None)
        if source is None and super_start_of(self.cfg) == CORE:
            start_as_core_(model)
        set_level(model, self.partition.max_level)
        self.state.merge_state_dict(
            {PARTITION_KEY: self.partition.to_dict(), DICTIONARIES_KEY: self._dictionary_sums()}
        )
        logger.info(f"{swaps} linear layers replaced: {self.partition}")
        return model

    def _warm_start_(self, stock_model: Any, source: str | None) -> None:
        """``--init-from``: in a new run only, which ``source``, the checkpoint to train on from, tells apart."""
        if source is not None:
            logger.info(f"--init-from {self.cfg.init_from} is left alone: training goes on from {source}")
            return
        by_importance = str(self.cfg.init_order) == "importance"
        if by_importance and self.partition.module_name != "PartitionedLinear":
            raise ValueError(
                f"--init-order is importance and --partitioned-linear-module-name is {self.partition.module_name}, "
                "whose core does not depend on an order; allowed: unchanged, or PartitionedLinear"
            )
        dictionaries = {self.cfg.source_lang: self.source_dictionary, self.cfg.target_lang: self.target_dictionary}
        load_stock_weights_(stock_model, self.cfg.init_from, dictionaries)
        if by_importance:
            order_by_importance_(stock_model)

    def _given_partition(self) -> dict[str, Any]:
        module_name = self.cfg.partitioned_linear_module_name
        given = {
            "module_name": None if module_name is None else str(module_name),
            "small_ratio": parse_small_ratio(self.cfg.small_ratio),
            "max_level": self.cfg.max_level,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _checkpoint_to_load(self) -> str | None:
        """The file from which fairseq is going to train on (fairseq/checkpoint_utils.py:207), if there is one."""
        if self.cfg.restore_file != LAST_CHECKPOINT:
            candidates = [self.cfg.restore_file]
        else:
            last = os.path.join(self.cfg.save_dir, LAST_CHECKPOINT)
            candidates = [last, self.cfg.continue_once or self.cfg.finetune_from_model]
        return next((path for path in candidates if path and os.path.isfile(path)), None)

    def _continue_from(self, source: str, given: dict[str, Any]) -> Partition:
        """The partition to train on with; takes over what the plugin itself remembers of the interrupted run."""
        check_sums(source)
        header = read_header(source)
        self._check_dictionaries(header.get("task_state") or {}, source)
        saved = partition_of(header.get("task_state"))
        partition = reconciled(given, saved, source)
        if scheme_of(self.cfg) in SCHEMES_OF_SEVERAL_NETWORKS and partition.max_level == CORE_LEVEL:
            raise ValueError(f"{name_of_scheme(self.cfg)} needs two networks and {source} holds the core alone")
        # With --finetune-from-model fairseq resets optimizer, meters and data by itself.
        resets_all = source == self.cfg.finetune_from_model
        if partition.max_level < saved.max_level and not (self.cfg.reset_optimizer or resets_all):
            asked = (
                f"--scheme is {CORE_ALONE}"
                if scheme_of(self.cfg) == CORE_ALONE
                else f"--max-level is {partition.max_level}"
            )
            raise ValueError(
                f"{asked} and {source} has the optimizer's state of "
                f"{'both' if saved.max_level == 2 else 'more'} networks; take its weights only: "
                "--finetune-from-model instead, or --reset-optimizer"
            )
        self.best_of_other_networks = self._best_of_other_networks(partition)
        if not (self.cfg.reset_optimizer or resets_all):
            self._resume(source, header)
        return partition

    def _resume(self, source: str, header: dict[str, Any]) -> None:
        """Take over what the plugin keeps of a run; raise SystemExit if there is nothing left to train."""
        patience = header["extra_state"].get(PATIENCE_KEY, {})
        # As fairseq does with its own best value (fairseq/checkpoint_utils.py:279).
        if not self.cfg.reset_meters:
            self._resumed_from = header
            restore_patience(patience)
            is_last = source == os.path.join(self.cfg.save_dir, LAST_CHECKPOINT)
            states = states_of(header["extra_state"].get(type(self).__name__, {}))
            for best in self.best_of_other_networks:
                for state in states:
                    best.load_state(state)
                if is_last and distributed_utils.get_global_rank() == 0:
                    best.saved(source)
        reason = why_finished(header, patience, self.cfg)
        if reason is not None:
            logger.info(f"{source} is the end of a finished training: {reason}; nothing is left to do")
            raise SystemExit(0)

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """fairseq's hook after it has loaded a checkpoint to train on."""
        if self._resumed_from is not None:
            restore_metrics(self._resumed_from)
            self._resumed_from = None

    # The data.

    def _dictionary_sums(self) -> dict[str, str]:
        return {"source": dictionary_sum(self.source_dictionary), "target": dictionary_sum(self.target_dictionary)}

    def _check_dictionaries(self, task_state: dict[str, Any], source: str) -> None:
        """Nothing to compare with in a checkpoint that does not say what its dictionaries were, an older one."""
        saved = task_state.get(DICTIONARIES_KEY)
        if saved is not None and saved != self._dictionary_sums():
            raise ValueError(
                f"{source} was trained with other dictionaries than those in {self.cfg.data}; its numbers have other "
                "meanings there. Give the data that it was trained with, or data binarised with its dictionaries "
                "(fairseq-preprocess --srcdict, --tgtdict)"
            )

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """fairseq's, of files that were looked at before.

        Raises:
            ValueError: binarised data are damaged, or do not fit the dictionaries.
        """
        dictionaries = [(self.cfg.source_lang, self.src_dict), (self.cfg.target_lang, self.tgt_dict)]
        check_split(folder_of(self.cfg.data, split, epoch, self.cfg.train_subset), split, dictionaries)
        super().load_dataset(split, epoch, combine, **kwargs)

    def can_reuse_epoch_itr(self, dataset: Any) -> bool:
        """fairseq's hook: whether one set of batches serves every epoch, or validation, of a process.

        Then they would depend on the epoch in which the process began, and, of validation, on how often it was done
        before (fairseq/data/iterators.py:417): a resumed run would see other batches. Made anew, they follow from
        the seed and the epoch's number.
        """
        return False

    def get_batch_iterator(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        """fairseq's, of which nothing is left when its batches are used up.

        fairseq keeps the loading processes for the next epoch (``persistent_workers``), which here has an iterator of
        its own: each epoch and each validation would leave a copy of the training's memory behind.
        """
        if options.get("num_workers", 0) > 0:
            # Without a buffer fairseq counts the batches and asks for no more, and the loader never learns of its end.
            options["data_buffer_size"] = max(1, options.get("data_buffer_size", 0))
        if dataset in self._iterated:
            # The one before holds itself (fairseq/data/iterators.py:488, a bound method as sampler), with its batches.
            gc.collect()
        self._iterated.add(dataset)
        batches = super().get_batch_iterator(dataset, *arguments, **options)
        batches.persistent_workers = batches.reuse_dataloader = False
        return batches

    # One update.

    def level_of_update(self, update_num: int) -> int:
        """The highest level that update ``update_num`` trains; what is above it stays as it is."""
        return max(self.schedule.levels_of_update(update_num))

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Forward and backward of the update's networks, one after the other, on one mini-batch.

        Their gradients add up. With pytorch_ddp each backward pass reduces: the gradients of an earlier network are
        the same mean on every worker by then, and a mean of them. (Reducing in the last pass alone would miss what only
        earlier passes use: PyTorch's issue 69031, mended in 2024.)

        Returns:
            The sum of the losses, the sample size of the mini-batch, and every network's logging output.
        """
        levels = self.schedule.levels_of_update(update_num)

        def step() -> tuple[Any, Any, dict[str, Any]]:
            plain = in_autocast(criterion, self._autocast)
            with self.criteria.remembering(model, plain, sample, update_num, ignore_grad):
                return self._forward_backward(sample, model, criterion, optimizer, update_num, ignore_grad)

        return self.out_of_memory_guard(step, optimizer, levels)

    def _forward_backward(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool,
    ) -> tuple[Any, Any, dict[str, Any]]:
        levels = self.schedule.levels_of_update(update_num)
        if self.schedule.masks:
            freeze_above(model, max(levels))
        teacher = self._teacher(sample, model, levels)
        losses, merged = 0.0, {}
        for level in levels:
            step_criterion = criterion
            if teacher is not None:
                is_super = level == self.partition.max_level
                step_criterion = teacher.recording(criterion) if is_super else teacher.distilling(criterion)
            with use_level(model, level):
                loss, sample_size, logging_output = super().train_step(
                    sample, model, in_autocast(step_criterion, self._autocast), optimizer, update_num, ignore_grad
                )
            losses = losses + loss.detach()
            merged.update(self._under_own_name(logging_output, level))
        return losses, sample_size, merged

    def _teacher(self, sample: dict[str, Any], model: Any, levels: tuple[int, ...]) -> Teacher | None:
        """Where distillation trains a smaller network: the super-network's soft targets, or who will make them."""
        highest = self.partition.max_level
        if self.cfg.distillation_weight == 0 or min(levels) == highest:
            return None
        teacher = Teacher(
            Distillation(self.cfg.distillation_weight, self.cfg.distillation_temperature, self.target_dictionary.pad())
        )
        if highest not in levels:
            with use_level(model, highest):
                teacher.predict(model, sample, self._autocast)
        return teacher

    @property
    def _autocast(self) -> str | None:
        return None if self.cfg.autocast is None else str(self.cfg.autocast)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Move the parameters of the update's networks, and nothing else."""
        for best in self.best_of_other_networks:
            best.updated()
        self.criteria.measure(model, optimizer, update_num, self.partition.levels)
        if not self.schedule.masks:
            step_unscaled(optimizer)
            return
        # .optimizer is the torch optimizer under each of fairseq's wrappers (fp16, memory-efficient fp16, amp).
        with optimizer.optimizer.at_level(self.level_of_update(update_num)):
            step_unscaled(optimizer)

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
        highest = level == self.partition.max_level
        return under_name(HIGHEST if highest else self.partition.network_name(level), logging_output)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        names = {level: self.partition.network_name(level) for level in self.partition.levels}
        highest = names.pop(self.partition.max_level)
        reduce_by_network(super().reduce_metrics, logging_outputs, criterion, list(names.values()))
        log_distillation(logging_outputs, names.values())
        if self.schedule.scheme == ALTERNATE:
            trained = next(iter(split_networks(logging_outputs)), HIGHEST) or highest
            log_gradient_norm(trained, [name for name in (*names.values(), highest) if name != trained])
        self.criteria.log()

    # The best checkpoints of the networks that --best-checkpoint-metric does not follow.

    def _best_of_other_networks(self, partition: Partition) -> list[BestOfNetwork]:
        return best_of_other_networks(
            partition,
            self.cfg.best_checkpoint_metric,
            self.cfg.maximize_best_checkpoint_metric,
            keeps_last=not self.cfg.no_last_checkpoints,
        )

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        for best in self.best_of_other_networks:
            best.validated(stats)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        saved = {PATIENCE_KEY: patience_state()}
        if self.best_of_other_networks:
            saved[type(self).__name__] = as_saved([best.state_to_save() for best in self.best_of_other_networks])
        return saved

    def post_save(self, checkpoint: str, num_updates: int) -> None:
        for best in self.best_of_other_networks:
            best.saved(checkpoint)

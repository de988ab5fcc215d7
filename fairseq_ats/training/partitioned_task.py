"""Do what every task with a partitioned model does in an update, a validation, a save and a resume.

One update: fairseq's trainer calls :meth:`PartitionedTask.train_step` with the update's number, and the scheme says
once what this update does (:class:`~fairseq_ats.schemes.partial_sgd.Update`). At each of its points the stock task runs
forward and backward, and the gradients add up. Then the trainer clips, and :meth:`PartitionedTask.optimizer_step` moves
what the update's mask selects.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from fairseq.distributed import utils as distributed_utils
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.checkpoints.keys import PARTITION_KEY, PATIENCE_KEY, RUN_KEY, SCHEME_KEY, as_saved, states_of
from fairseq_ats.checkpoints.reading import partition_of, read_checked
from fairseq_ats.checkpoints.saved_options import forget_start_files_
from fairseq_ats.host.amp import step_unscaled
from fairseq_ats.host.batches import BatchesOfTheirOwn
from fairseq_ats.host.log_file import close_earlier_handlers
from fairseq_ats.host.patience import patience_state, restore_patience
from fairseq_ats.host.workers import ALONE, Workers
from fairseq_ats.modules.core_dropout import use_core_dropout_
from fairseq_ats.modules.fused_loss import CRITERION_NAME, check_one_matrix
from fairseq_ats.modules.levels import partitioned_modules, set_level, use_level
from fairseq_ats.optim.mask import EVERYTHING, NOTHING, LevelMask, require_gradients
from fairseq_ats.optim.unreduced import fit_buffer_, is_reduced
from fairseq_ats.options.checks import partition_problems, training_problems
from fairseq_ats.options.checks.host import LEGACY_DDP
from fairseq_ats.options.config import PartitionedConfig, SuperStart
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.run_options import recall_, settle_, to_remember
from fairseq_ats.options.values import Options
from fairseq_ats.partition.names import Networks
from fairseq_ats.partition.partition import CORE_LEVEL, PERTURBED, PERTURBED_LEVEL, Partition, reconciled
from fairseq_ats.partition.tags import holds
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.options import ALPHA, watched_scheme
from fairseq_ats.schemes.partial_sgd import Comparison, Scheme, Update
from fairseq_ats.schemes.points import NetworkPoint, Point
from fairseq_ats.schemes.schedule import Schedule, SchemeName
from fairseq_ats.theory.batch_gradients import begins_update, left_as_found, network_of
from fairseq_ats.theory.monitor import CriteriaMonitor, check_monitored
from fairseq_ats.training.best_checkpoints import BestOfNetwork, best_of_other_networks
from fairseq_ats.training.distillation import Distillation, check_distilled, log_distillation
from fairseq_ats.training.freeze import frozen_parameters
from fairseq_ats.training.metrics import log_gradient_norm, reduce_by_network, under_own_keys
from fairseq_ats.training.out_of_memory import OutOfMemoryGuard, StepResult
from fairseq_ats.training.precision import check_autocast, in_autocast
from fairseq_ats.training.resume import check_model_options, partition_of_run, restore_metrics, why_finished
from fairseq_ats.training.super_start import start_as_core_

logger = logging.getLogger(__name__)


class PartitionedTask(BatchesOfTheirOwn):
    """Mixin before a stock fairseq task.

    The class of the task itself is registered with fairseq, has the methods of the first section below, and is in
    :data:`~fairseq_ats.checkpoints.keys.TASK_CLASSES`.
    """

    cfg: PartitionedConfig

    # From build_model on; the guard in training only.
    partition: Partition
    scheme: Scheme
    watched: Scheme  # whose comparisons the monitor measures
    out_of_memory_guard: OutOfMemoryGuard

    # What a task says of its data and its models.

    # Fields of the partition of a new run where an option is not given, and where they are not the partition's own.
    default_partition: ClassVar[dict[str, Any]] = {}

    @classmethod
    def data_problems(cls, cfg: Any) -> list[str]:
        """Return one message for each option of the data that is invalid, in training and in decoding."""
        raise NotImplementedError

    @classmethod
    def training_problems(cls, cfg: Any) -> list[str]:
        """Return one message for each option of the task itself that cannot be trained with."""
        raise NotImplementedError

    def check_model_options(self, cfg: Any) -> None:
        """Raise ValueError for options of a model that cannot be partitioned, before it is built."""
        raise NotImplementedError

    @staticmethod
    def partition_model_(model: Any, partition: Partition, initialise: bool) -> int:
        """Partition a stock model in place, and return the number of replaced layers."""
        raise NotImplementedError

    @staticmethod
    def layer_type(parameter_name: str) -> str:
        """Return the layer type of a parameter, for the monitor."""
        raise NotImplementedError

    @staticmethod
    def model_parts(model: Any) -> ModelParts:
        """Return the parts of a partitioned model, for the schemes that need them."""
        raise NotImplementedError

    def start_from_stock_(self, model: Any) -> None:
        """Fill a stock model, just built, with the weights of ``--init-from``."""
        raise NotImplementedError

    def data_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the data, to be compared by :meth:`check_same_data`."""
        raise NotImplementedError

    def check_same_data(self, saved: Mapping[str, Any], source: str) -> None:
        """Raise ValueError if the checkpoint ``source``, with the task's state ``saved``, belongs to other data."""
        raise NotImplementedError

    def announce_network(self, name: str) -> None:
        """Tell in the log which of several networks is validated next, if the stock task prints examples."""

    def sample_of(self, level: int, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the mini-batch from which the network of ``level`` learns."""
        return sample

    def counted(self, targets: Tensor, criterion: Any) -> Tensor:
        """Return which targets the criterion counts in its loss, for distillation."""
        raise NotImplementedError

    # The start of a command.

    @classmethod
    def setup_task(cls, cfg: PartitionedConfig, from_checkpoint: bool = False) -> PartitionedTask:
        """Check the options before anything is read.

        Args:
            from_checkpoint: the options come from a finished training, and one of its networks is to be decoded.

        Raises:
            ValueError: every problem of the options, in one message.
        """
        problems = partition_problems(cfg) + cls.data_problems(cfg)
        header = None
        if not from_checkpoint:
            try:
                header = _recall(cfg)
            except ValueError as error:
                problems.append(str(error))
            settle_(cfg)
            problems += training_problems(cfg) + cls.training_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        task = super().setup_task(cfg)
        task._header = header
        return task

    def __init__(self, cfg: PartitionedConfig, *data: Any) -> None:
        settle_(cfg)
        super().__init__(cfg, *data)
        self.options = Options(cfg)
        criteria = self.options.criteria
        self.criteria = CriteriaMonitor(
            criteria.interval,
            self.layer_type,
            criteria.dropout,
            criteria.by_layer_type,
            criteria.reports_perturbation,
        )
        self.distillation: Distillation | None = None
        self.best_of_other_networks: list[BestOfNetwork] = []
        self._update: Update | None = None
        self._micro_batch = 0
        self._workers = ALONE
        self._has_private = False  # whether smaller networks have parameters that the highest lacks
        self._trained: list[nn.Parameter] = []
        self._perturbed_points = 0  # that a validation of a training takes
        self._scheme_state: Mapping[str, Any] | None = None  # of the run that is resumed, if it had this scheme
        self._resumed_from: Mapping[str, Any] | None = None
        self._header: Mapping[str, Any] | None = None  # of the run that is resumed, until the model is built

    @property
    def networks(self) -> Networks:
        """The networks that the model holds, and the names of their metrics."""
        return Networks.of(self.partition, self._perturbed_points > 0)

    # The model: its partition comes from the options in a new run, and from the checkpoint everywhere else.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint, before its model is built; once for each checkpoint of an ensemble."""
        nothing = dict.fromkeys((PARTITION_KEY, RUN_KEY, *self.data_state()))
        super().load_state_dict(nothing | state_dict)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the stock model of ``--arch`` and partition it.

        Raises:
            ValueError: the model cannot be partitioned, or the checkpoint has another partition.
        """
        self.check_model_options(cfg)
        if from_checkpoint:
            forget_start_files_(cfg)
            self._prepare_decoding(cfg)
            model = super().build_model(cfg, from_checkpoint)
            self._partition_(model, is_new=False)
            return model
        source = self.options.checkpoints.to_load()
        self._prepare_training(cfg, source)
        if source is not None:
            forget_start_files_(cfg)
        model = super().build_model(cfg)
        init_from = self.options.start.init_from
        if init_from and source is not None:
            logger.info(f"ignoring --init-from {init_from}: resuming from {source}")
        elif init_from:
            self.start_from_stock_(model)
        self._partition_(model, is_new=source is None)
        if source is None and self.options.super_start == SuperStart.CORE:
            start_as_core_(model)
        if self.options.core_dropout is not None:
            use_core_dropout_(model, self.options.core_dropout)
        self._attach_scheme(model)
        return model

    def _attach_scheme(self, model: Any) -> None:
        """Tell the scheme its model.

        Raises:
            ValueError: the model lacks parts that the scheme needs, or the checkpoint's run had another scheme.
        """
        frozen = frozen_parameters(model, self.options.scheme.freeze)
        trainable = [p for p in model.parameters() if p.requires_grad]
        self.criteria.trainable, self.criteria.frozen = trainable, frozen
        self._trained = [p for p in trainable if p not in frozen]
        self._has_private = not all(holds(p, self.partition.max_level) for p in self._trained)
        self.criteria.always_remembers = self.scheme.extra_passes > 0
        self._workers = Workers.of_this_process()
        if isinstance(self.scheme, Schedule) and isinstance(self.watched, Schedule):
            return
        parts, seed = self.model_parts(model), self.options.host.seed
        self.watched.attach(parts, Draws(seed, "criteria"))
        self.scheme.attach(parts, Draws(seed), self._workers)
        if self._scheme_state is not None:
            self.scheme.load_state_dict(self._scheme_state)

    def _partition_(self, model: Any, is_new: bool) -> None:
        swaps = self.partition_model_(model, self.partition, initialise=is_new)
        set_level(model, self.partition.max_level)
        self._masked_by_zeros = all(module.is_masked_by_zeros for module in partitioned_modules(model))
        self.state.merge_state_dict({PARTITION_KEY: self.partition.to_dict(), **self.data_state()})
        logger.info(f"{swaps} layers replaced: {self.partition}")

    def _prepare_decoding(self, cfg: Any) -> None:
        """Take the partition from the checkpoint's state. Its scheme does not matter, since nothing is trained."""
        given = self.options.given_partition(trains=False)
        # --model-overrides changes the options of the model, but the task's options only in the checkpoint.
        given.setdefault("max_level", getattr(cfg, "max_level", None))
        source = "the checkpoint"
        self.check_same_data(self.state_dict(), source)
        self.partition = reconciled(given, partition_of(self.state_dict()), source)
        self.scheme = Schedule(SchemeName.STANDARD, self.partition.max_level)

    def _prepare_training(self, cfg: Any, source: str | None) -> None:
        """Decide on the partition and on everything that depends on it, and take over what a checkpoint remembers.

        Raises:
            SystemExit: the run of the checkpoint is finished.
        """
        options = self.options
        self._perturbed_points = options.perturbed_validation
        if options.autocast is not None:
            check_autocast(cfg, options.autocast)
        if option_of(self.cfg, "criterion", "_name") == CRITERION_NAME:
            check_one_matrix(cfg)
        if source is None:
            self.partition = Partition(**(self.default_partition | options.given_partition(trains=True)))
            self.best_of_other_networks = self._best_of_other_networks()
        else:
            header, self._header = self._header or read_checked(source), None
            self.check_same_data(header.get("task_state") or {}, source)
            self.partition = partition_of_run(header, source, options)
            check_model_options(header, source, cfg, options.checkpoints)
            self.best_of_other_networks = self._best_of_other_networks()
            if not options.checkpoints.takes_weights_only(source):
                self._resume(source, header)
        highest = self.partition.max_level
        self.scheme = options.scheme.scheme_of(highest)
        self.watched = watched_scheme(options.criteria.of, self.scheme)
        self._update = None
        if options.criteria.interval:
            check_monitored(cfg, options.criteria.compares_networks and highest == CORE_LEVEL)
        if not isinstance(self.scheme, Schedule):
            check_monitored(cfg, False, f"--scheme {options.scheme.name}")
        given = options.distillation
        if given.weight:
            check_distilled(cfg, given.weight)
            self.distillation = Distillation(
                given.weight, given.temperature, highest, self.counted, given.start, options.autocast
            )
        host = options.host
        reduces_afterwards = host.ddp_backend in LEGACY_DDP
        self.out_of_memory_guard = OutOfMemoryGuard(host.distributed_world_size, reduces_afterwards)
        self.state.merge_state_dict({RUN_KEY: to_remember(self.cfg, self.scheme)})

    def _best_of_other_networks(self) -> list[BestOfNetwork]:
        checkpoints = self.options.checkpoints
        return best_of_other_networks(
            self.partition,
            checkpoints.best_checkpoint_metric,
            checkpoints.maximize_best_checkpoint_metric,
            checkpoints.saves_after_each_validation,
            checkpoints.checkpoint_suffix,
            self._perturbed_points > 0,
        )

    def _resume(self, source: str, header: Mapping[str, Any]) -> None:
        """Take over what the plugin keeps of a run; raise SystemExit if there is nothing left to train."""
        checkpoints = self.options.checkpoints
        kept, had = header["task_state"].get(SCHEME_KEY, {}), header["task_state"].get(RUN_KEY) or {}
        self._scheme_state = kept.get("state", {}) if had.get("scheme") == self.options.scheme.name else {}
        self.criteria.alphas = dict(kept.get("alphas", {}))
        patience = {} if checkpoints.reset_meters else header["extra_state"].get(PATIENCE_KEY, {})
        # As fairseq does with its own best value (fairseq/checkpoint_utils.py:279).
        if not checkpoints.reset_meters:
            self._resumed_from = header
            restore_patience(patience)
            for best in self.best_of_other_networks:
                for state in states_of(header["extra_state"]):
                    best.load_state(state)
                if source == checkpoints.last and distributed_utils.get_global_rank() == 0:
                    best.saved(source)
        reason = why_finished(header, patience, checkpoints)
        if reason is not None:
            logger.info(f"{source}: training has already finished ({reason}); nothing to do")
            raise SystemExit(0)

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Leave one handler for ``--log-file``."""
        super().begin_epoch(epoch, model)
        close_earlier_handlers()

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Restore the metrics, after fairseq has loaded a checkpoint to train on."""
        if self._resumed_from is not None:
            restore_metrics(self._resumed_from)
            self._resumed_from = None

    # One update.

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> StepResult:
        """Run the update's networks forward and backward, one after the other, on one mini-batch.

        Their gradients add up. With pytorch_ddp each backward pass reduces: the gradients of an earlier network are
        the same mean on every worker by then, and stay it. (Reducing only in the last pass would miss what only earlier
        passes use: PyTorch's issue 69031, mended in 2024.)

        Returns:
            The sum of the losses, the sample size of the mini-batch, and every network's logging output.
        """
        update = self._update_of(update_num)
        step = partial(self._run_points, sample, model, criterion, optimizer, update, ignore_grad)
        distils = self.distillation is not None and self.distillation.teaches(update)
        return self.out_of_memory_guard(step, optimizer, (update.levels, distils))

    def _update_of(self, number: int) -> Update:
        """Ask the scheme what an update does, once for all its micro-batches and its step."""
        if self._update is None or self._update.number != number:
            self._update = self.scheme.update(number)
        return self._update

    def _batch_number(self) -> int:
        """Return the number of the micro-batch that comes next, within its update and over all workers."""
        self._micro_batch = 0 if begins_update(self._trained) else self._micro_batch + 1
        return self._micro_batch * self._workers.count + self._workers.rank

    def _run_points(
        self, sample: dict[str, Any], model: Any, criterion: Any, optimizer: Any, update: Update, ignore_grad: bool
    ) -> StepResult:
        autocast = self.options.autocast
        # Not when the model is built: the optimizer then holds every parameter, in the model's order.
        require_gradients(self.criteria.frozen, NOTHING)
        mask = update.mask
        if self._has_private and mask is EVERYTHING:
            # Not of what does not run: legacy_ddp would fill in zeros, and a step without a mask decay them.
            mask = LevelMask(update.levels)
        require_gradients(self._trained, mask)
        if not all(map(is_reduced, self._trained)):
            fit_buffer_(model)
        losses, merged = 0.0, {}
        with self.criteria.remembering(model, in_autocast(criterion, autocast), sample, update.number, ignore_grad):
            teacher = self.distillation.teacher(model, sample, update) if self.distillation else None
            for point in self.scheme.points_of(update, self._batch_number()):
                own_criterion = teacher.criterion_for(point.level, criterion) if teacher else criterion
                with point.of(model):
                    own_sample = self.sample_of(point.level, sample)
                    loss, sample_size, logging_output = super().train_step(
                        own_sample, model, in_autocast(own_criterion, autocast), optimizer, update.number, ignore_grad
                    )
                losses = losses + loss.detach()
                merged.update(under_own_keys(self.networks, point.level, logging_output))
        return losses, sample_size, merged

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Move what the update's mask selects, and nothing else."""
        update = self._update_of(update_num)
        for best in self.best_of_other_networks:
            best.updated()
        update = self.scheme.before_step(update, partial(self._take_gradients, model, optimizer))
        self.criteria.measure(model, optimizer, update.number, self.scheme.whole, self.comparisons(update))
        lr_scale = update.lr_scale * self._step_scale(update)
        if update.mask is EVERYTHING and lr_scale == 1.0:
            step_unscaled(optimizer)
        else:
            # .optimizer is the torch optimizer under each of fairseq's wrappers (fp16, memory-efficient fp16, amp).
            with optimizer.optimizer.masked(update.mask, lr_scale):
                step_unscaled(optimizer)
        self.scheme.after_step(update, optimizer.optimizer)

    def _take_gradients(self, model: Any, optimizer: Any, point: Point) -> None:
        """Replace the gradients by those of the update's mini-batch at another point, scaled and clipped alike."""
        network = network_of(model)
        held = {name: p for name, p in network.named_parameters() if p.grad is not None}
        with left_as_found(network), point.of(network):
            gradients = self.criteria.batch.gradients(network, held)
        for name, p in held.items():
            p.grad = (gradients[name] / self.criteria.batch.sample_size(p.device)).to(p.dtype)
        if self.options.host.clip_norm > 0:
            optimizer.clip_grad_norm(self.options.host.clip_norm)

    def _step_scale(self, update: Update) -> float:
        """Return --step-scale for this update: α_t of Theorem 1 as it was last measured, for this network.

        Lemma 3 would allow a negative α_t, a step against the gradient of the network. Here the step then has length 0.
        This is not in the paper. α_t is for SGD: Adam already divides by the gradient's size, so α_t's quotient of
        norms counts twice.
        """
        scale = self.options.scheme.fixed_step_scale if self.scheme.is_partial(update) else 1.0
        if scale is not None:
            return scale
        levels = [one.level for one in self.scheme.comparisons(update) if one.level in (0, *update.levels)]
        return max(0.0, self.criteria.alphas.get(levels[0], 1.0)) if levels else 1.0

    def comparisons(self, update: Update) -> tuple[Comparison, ...]:
        """Return what the monitor compares in this update.

        Where zeros do not make the super-network a smaller network (norms of its own, post-norm layers that it skips),
        x̃ is that network as it runs, and p are the parameters that both networks hold. The paper has no word for it. A
        perturbation of one network (level 0) is compared as everywhere.
        """
        watched = self.watched
        compared = watched.comparisons(update if watched is self.scheme else watched.update(update.number))
        if self._masked_by_zeros:
            return compared
        return tuple(replace(one, point=NetworkPoint(one.level)) if one.level else one for one in compared)

    # Validation and logging.

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Give every worker the whole model."""
        super().begin_valid_epoch(epoch, model)
        self.scheme.make_whole()

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any) -> StepResult:
        """Validate every network that the model holds; return loss and sample size of the highest."""
        merged: dict[str, Any] = {}
        for level in self.partition.levels:
            if self.networks.lower_levels:
                self.announce_network(self.networks.name(level))
            with use_level(model, level):
                loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
            merged.update(under_own_keys(self.networks, level, logging_output))
        return loss, sample_size, merged | self._perturbed_output(sample, model, criterion)

    def _perturbed_output(self, sample: dict[str, Any], model: Any, criterion: Any) -> dict[str, Any]:
        """Validate at each point of --perturbed-validation; their sums are logged as those of one network."""
        sums: dict[str, Any] = {}
        for point in self.scheme.validation_points(self._perturbed_points):
            self.announce_network(PERTURBED)
            with point.of(model):
                _, _, output = super().valid_step(sample, model, criterion)
            sums = {name: sums.get(name, 0) + value for name, value in output.items()}
        return under_own_keys(self.networks, PERTURBED_LEVEL, sums)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log every network's metrics under its own names."""
        reduce_by_network(super().reduce_metrics, logging_outputs, criterion, self.networks)
        log_distillation(logging_outputs, self.networks)
        if self.scheme.takes_turns:
            log_gradient_norm(self.networks, logging_outputs)
        self.criteria.log()

    # The best checkpoints of the networks that --best-checkpoint-metric does not follow.

    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        for best in self.best_of_other_networks:
            if best.network != PERTURBED or self.scheme.is_final:
                best.validated(stats)

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the run; fairseq expects the task's own state under its class's name."""
        states = [best.state_to_save() for best in self.best_of_other_networks]
        return {PATIENCE_KEY: patience_state(), type(self).__name__: as_saved(states)}

    def state_dict(self) -> dict[str, Any]:
        """Return the task's state, with what the scheme keeps of earlier updates."""
        if not self._trained:  # while decoding
            return super().state_dict()
        kept: dict[str, Any] = {"state": dict(self.scheme.state_dict())}
        if self.options.scheme.step_scale == ALPHA:
            kept["alphas"] = self.criteria.alphas
        return super().state_dict() | ({SCHEME_KEY: kept} if any(kept.values()) else {})

    def post_save(self, checkpoint: str, num_updates: int) -> None:
        for best in self.best_of_other_networks:
            best.saved(checkpoint)


def _recall(cfg: PartitionedConfig) -> dict[str, Any] | None:
    """Fill in what a run that is going to be resumed remembers of its options, and warn of what is different now.

    Returns:
        The run's checkpoint; None if no run is resumed.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    if cfg.optimizer_name is None:  # while decoding
        return None
    checkpoints = Options(cfg).checkpoints
    source = checkpoints.to_load()
    if source is None or checkpoints.takes_weights_only(source):
        return None
    is_given = cfg.scheme is not None or cfg.alternate
    header = read_checked(source)
    for difference in recall_(cfg, header.get("task_state") or {}):
        logger.warning(f"{source} was trained with {difference}")
    if cfg.scheme is not None and not is_given:
        logger.info(f"resuming {source} with its own --scheme {cfg.scheme}")
    return header

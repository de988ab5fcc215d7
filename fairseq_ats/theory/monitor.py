"""Measure the paper's criteria during a training (``--criteria-interval``) without changing the training.

In a measured update the task calls three hooks. It runs the passes of each micro-batch inside
:meth:`CriteriaMonitor.remembering`, calls :meth:`CriteriaMonitor.measure` before the optimizer's step, and calls
:meth:`CriteriaMonitor.log` when fairseq reduces the update's metrics.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn

from fairseq_ats.modules.levels import freeze_outside
from fairseq_ats.partition.names import CRITERIA, criterion_name, is_criterion
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.partial_sgd import Comparison
from fairseq_ats.schemes.points import Point
from fairseq_ats.theory.criteria import GradientProducts, sums_of_products

logger = logging.getLogger(__name__)

DROPOUTS = ("same", "different", "off")

_PRIORITY = 420  # after gnorm, which fairseq logs with priority 400


@dataclass(frozen=True)
class CriteriaOptions:
    """The values of ``--criteria-interval``, ``--criteria-dropout`` and ``--criteria-by-layer-type``."""

    interval: int
    dropout: str
    by_layer_type: bool

    def problems(self, max_level: int | None) -> list[str]:
        """Return one message for each invalid option or combination of options.

        Args:
            max_level: the value of ``--max-level``; None if it is not given.
        """
        if self.interval < 0:
            return [f"--criteria-interval is {self.interval}; allowed: 0 (never) or more"]
        if self.interval == 0:
            given = {"--criteria-dropout": self.dropout != "same", "--criteria-by-layer-type": self.by_layer_type}
            return [f"{option} needs --criteria-interval" for option, is_given in given.items() if is_given]
        if max_level == CORE_LEVEL:
            return [
                f"--criteria-interval is {self.interval}, which compares two networks, and --max-level 1 builds the "
                "core alone; leave one of them out"
            ]
        return []


@dataclass(frozen=True)
class _MicroBatch:
    """One micro-batch of an update, with the random state from which the update ran it."""

    criterion: Callable[..., Any]
    sample: dict[str, Any]
    rng_state: dict[str, Tensor]


class CriteriaMonitor:
    """Measure :class:`~fairseq_ats.theory.criteria.GradientProducts` for each comparison of a scheme.

    x is the point before the update. The measured function is the same at both points if dropout starts from
    the same random state, because it then draws the same masks.

    Args:
        interval: measure in updates 0, ``interval``, 2 · ``interval``, ...; 0 means never.
        layer_type: a function that maps a parameter's name to its layer type.
        dropout: ``same`` uses the dropout masks of the update at both points, as the paper's definition requires
            (its f is one function). ``different`` draws other masks at x̃. ``off`` uses no dropout.
        by_layer_type: whether to report each layer type as well.
    """

    def __init__(
        self, interval: int, layer_type: Callable[[str], str], dropout: str = "same", by_layer_type: bool = False
    ) -> None:
        self.interval = interval
        self.layer_type = layer_type
        self.dropout = dropout
        self.by_layer_type = by_layer_type
        self._micro_batches: list[_MicroBatch] = []
        self._measured: dict[str, float] = {}
        self._updated = False
        # The number of times that each warning was due, by level.
        self._misaligned: Counter[int] = Counter()
        self._not_finite: Counter[int] = Counter()

    def is_due(self, update_num: int) -> bool:
        return self.interval > 0 and update_num % self.interval == 0

    @contextmanager
    def remembering(
        self, model: nn.Module, criterion: Callable[..., Any], sample: dict[str, Any], update_num: int, ignore: bool
    ) -> Iterator[None]:
        """Remember a micro-batch, so that :meth:`measure` can run it again. Run the update's own passes inside.

        If a pass runs out of memory, the caller discards all gradients accumulated so far
        (fairseq_ats/training/out_of_memory.py, fairseq/trainer.py:881). Drop the remembered micro-batches then.

        Args:
            criterion: a function ``criterion(model, sample)`` that returns (loss, ...), in the update's precision.
            ignore: fairseq's ``ignore_grad``. If True, the sample is a dummy, because this worker has no batch left.
        """
        if not self.is_due(update_num):
            yield
            return
        # fairseq clears the gradients before the first micro-batch of an update and after an overflow
        # (fairseq/trainer.py:802 and :1024). Micro-batches from before that do not belong to this update.
        if all(p.grad is None for p in model.parameters()):
            self._micro_batches = []
        batch = _MicroBatch(criterion, sample, utils.get_rng_state())
        try:
            yield
        except BaseException:
            self._micro_batches = []
            raise
        if not ignore:
            self._micro_batches.append(batch)

    def measure(
        self, model: nn.Module, optimizer: Any, update_num: int, whole: Point, comparisons: Sequence[Comparison]
    ) -> None:
        """Compare the gradients at x and at each x̃ before the optimizer's step.

        This costs one forward and backward pass at x, and one more for each comparison.

        Sum the gradients over micro-batches and workers before taking any norm. Norms of one worker's gradients would
        be wrong: they contain the noise of that worker's sentences. Noise that is independent between workers cancels
        in inner products but not in norms.

        Args:
            model: the model, with or without fairseq's data-parallel wrapper.
            optimizer: fairseq's optimizer. Its loss scale keeps float16 gradients from underflowing.
            update_num: the number of the update, from 0.
            whole: the point x.
            comparisons: the pairs of x̃ and p to compare with x.
        """
        self._updated = True
        if not self.is_due(update_num):
            return
        # Take the network out of the wrapper: a forward pass of the wrapper would prepare to reduce gradients.
        network = next(m for m in model.modules() if isinstance(m, BaseFairseqModel))
        products = self._products(network, optimizer, whole, comparisons)
        self._micro_batches = []
        for level, by_type in products.items():
            total = sum(by_type.values(), GradientProducts(0.0, 0.0, 0.0, 0.0))
            self._warn(total, update_num, level)
            reported = {None: total} | (by_type if self.by_layer_type else {})
            for layer, of_layer in reported.items():
                if of_layer.is_finite:
                    values = {criterion_name(name, level, layer): getattr(of_layer, name) for name in CRITERIA}
                    # A criterion is NaN if the gradients are zero. Do not log it.
                    self._measured |= {name: value for name, value in values.items() if value == value}

    def log(self) -> None:
        """Log the measured criteria. In an update that measured nothing, log the last values with weight 0.

        The task calls this when fairseq reduces the metrics of an update. Averages over log intervals and epochs are
        therefore averages over the measured updates.
        """
        # A resumed run may bring meters from a monitored run; do not log them again.
        if self.interval == 0 or not self._updated:  # the latter after a validation
            return
        self._updated = False
        measured, self._measured = self._measured, {}
        for name, value in measured.items():
            metrics.log_scalar(name, value, priority=_PRIORITY)
        # Without this fairseq's log would show None. fairseq restores the "default" meters from a checkpoint.
        for name, meter in list((metrics.get_meters("default") or {}).items()):
            if is_criterion(name) and name not in measured:
                metrics.log_scalar(name, meter.val, weight=0, priority=_PRIORITY)

    def _products(
        self, network: nn.Module, optimizer: Any, whole: Point, comparisons: Sequence[Comparison]
    ) -> dict[int, dict[str, GradientProducts]]:
        """Return the sums over the whole mini-batch, by level and then by layer type."""
        scale = _loss_scale(optimizer)
        result = {}
        # Use autocast as fairseq does for its own forward pass (fairseq/tasks/fairseq_task.py:512).
        autocast = torch.autocast("cuda", enabled=isinstance(optimizer, AMPOptimizer))
        with _left_as_found(network), autocast:
            freeze_outside(network, (whole.level,))
            if self.dropout == "off":
                network.eval()
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            with whole.of(network):
                gradients = self._gradients(network, parameters, scale, as_in_update=True)
            for comparison in comparisons:
                selections = {name: comparison.mask.of(p) for name, p in parameters.items()}
                inside = {name: p for name, p in parameters.items() if selections[name] is not False}
                with comparison.point.of(network):
                    perturbed = self._gradients(network, inside, scale, as_in_update=self.dropout == "same")
                sums: dict[str, Tensor] = {}
                for name, gradient in gradients.items():
                    of_parameter = sums_of_products(gradient, perturbed.get(name), selections[name])
                    kind = self.layer_type(name)
                    sums[kind] = sums[kind] + of_parameter if kind in sums else of_parameter
                result[comparison.level] = {kind: GradientProducts(*v.tolist()) for kind, v in sums.items()}
        return result

    def _gradients(
        self, network: nn.Module, parameters: dict[str, nn.Parameter], scale: float, as_in_update: bool
    ) -> dict[str, Tensor]:
        """Return the gradients of the loss summed over all micro-batches and workers, by name, at least in float32.

        ``torch.autograd.grad`` changes no ``.grad`` and triggers no hook of a data-parallel wrapper.

        Args:
            scale: the factor of the loss (:func:`_loss_scale`).
            as_in_update: whether to start each micro-batch from the random state of the update. If False, continue from
                the random state after the last pass.
        """
        wanted = list(parameters.values())
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in wanted]
        for batch in self._micro_batches:
            if as_in_update:
                utils.set_rng_state(batch.rng_state)
            loss = batch.criterion(network, batch.sample)[0] * scale
            for total, gradient in zip(sums, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
                if gradient is not None:
                    total.add_(gradient)
        if distributed_utils.get_data_parallel_world_size() > 1:
            group = distributed_utils.get_data_parallel_group()
            for total in sums:
                distributed_utils.all_reduce(total, group)
        return dict(zip(parameters, sums, strict=True))

    def _warn(self, total: GradientProducts, update_num: int, level: int) -> None:
        """Warn if gradients are misaligned or not finite: at the first, second, fourth, eighth, ... occurrence."""
        if not _is_first_worker():
            return
        network = "core" if level == CORE_LEVEL else f"level {level}"
        if not total.is_finite:
            self._not_finite[level] += 1
            if _is_power_of_two(self._not_finite[level]):
                logger.warning(
                    f"update {update_num}: gradients of the {network} or the super-network are not finite, no criteria "
                    f"measured ({self._not_finite[level]} time(s) so far)"
                )
        elif total.is_misaligned:
            self._misaligned[level] += 1
            if _is_power_of_two(self._misaligned[level]):
                logger.warning(
                    f"update {update_num}: the gradients of {network} and super-network point away from each other "
                    f"(cosine {total.cosine:.3g}, alpha_t {total.alpha_t:.3g}): Criterion 3 does not hold and Theorem "
                    f"1 has no step size ({self._misaligned[level]} time(s) so far)"
                )


def _is_first_worker() -> bool:
    # fairseq reads the rank from a process group, and a single process has no such group.
    return distributed_utils.get_data_parallel_world_size() == 1 or distributed_utils.get_data_parallel_rank() == 0


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0


def _loss_scale(optimizer: Any) -> float:
    """Return the factor that keeps float16 gradients from underflowing; 1 in other precisions.

    No criterion depends on it.
    """
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.get_scale() if isinstance(optimizer, AMPOptimizer) else scaler.loss_scale


@contextmanager
def _left_as_found(network: nn.Module) -> Iterator[None]:
    """Restore the random state, modes, buffers and ``requires_grad`` flags on exit, even after an exception."""
    rng_state = utils.get_rng_state()
    modes = [(module, module.training) for module in network.modules()]
    needed = [(p, p.requires_grad) for p in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        utils.set_rng_state(rng_state)
        for module, mode in modes:
            module.training = mode
        for p, needs_gradient in needed:
            p.requires_grad_(needs_gradient)
        for buffer, value in buffers:
            buffer.copy_(value)


def check_monitored(model_options: Any, max_level: int) -> None:
    """Refuse a model whose criteria cannot be measured.

    Args:
        model_options: fairseq's model options, as ``task.build_model`` gets them.
        max_level: the highest level that the model holds.

    Raises:
        ValueError: the model holds only the core, or recomputes or offloads activations.
    """
    if max_level == CORE_LEVEL:
        raise ValueError("--criteria-interval compares two networks and this training has the core alone; allowed: 0")
    # The backward pass of both options refuses torch.autograd.grad (fairseq/modules/checkpoint_activations.py:195).
    # Check offloading first: it makes fairseq switch on the other option, which the user did not give.
    for name in ("offload_activations", "checkpoint_activations"):
        if getattr(model_options, name, False):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--criteria-interval does not work with {option}; leave one of them out")

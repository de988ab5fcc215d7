"""Measure the paper's criteria during a training (``--criteria-interval``), without changing the training.

In a measured update the task calls three hooks: :meth:`CriteriaMonitor.remembering` around the passes of each
micro-batch; :meth:`CriteriaMonitor.measure` before the optimizer moves anything; :meth:`CriteriaMonitor.log` when
fairseq reduces the update's metrics.
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

_PRIORITY = 420  # after gnorm, which fairseq logs with 400


@dataclass(frozen=True)
class CriteriaOptions:
    """``--criteria-interval``, ``--criteria-dropout`` and ``--criteria-by-layer-type``."""

    interval: int
    dropout: str
    by_layer_type: bool

    def problems(self, max_level: int | None) -> list[str]:
        """Return one message for each option that does not go with the others.

        Args:
            max_level: ``--max-level``; None: not given.
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
    """One part of an update's mini-batch, and the random state with which the update ran it."""

    criterion: Callable[..., Any]
    sample: dict[str, Any]
    rng_state: dict[str, Tensor]


class CriteriaMonitor:
    """Measure :class:`~fairseq_ats.theory.criteria.GradientProducts` of the comparisons of a scheme.

    x is the point before the update. The measured function is one at both points: with the same random state dropout
    draws the same masks there.

    Args:
        interval: measure in updates 0, ``interval``, 2 · ``interval``, ...; 0 never measures.
        layer_type: the function from a parameter's name to its layer type.
        dropout: ``same``: the masks of the update at both points, as the paper's definition needs, since its f is one
            function; ``different``: other masks at x̃; or ``off``.
        by_layer_type: report each layer type as well.
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
        # By level: how often the warning was due.
        self._misaligned: Counter[int] = Counter()
        self._not_finite: Counter[int] = Counter()

    def is_due(self, update_num: int) -> bool:
        return self.interval > 0 and update_num % self.interval == 0

    @contextmanager
    def remembering(
        self, model: nn.Module, criterion: Callable[..., Any], sample: dict[str, Any], update_num: int, ignore: bool
    ) -> Iterator[None]:
        """Keep what it takes to run a micro-batch again; to be used around the update's own passes.

        If a pass runs out of memory, the caller discards all gradients accumulated so far
        (fairseq_ats/training/out_of_memory.py, fairseq/trainer.py:881). The remembered micro-batches are then dropped.

        Args:
            criterion: ``criterion(model, sample)`` → (loss, ...), in the update's precision.
            ignore: fairseq's ``ignore_grad``; the sample stands in for a batch that this worker does not have.
        """
        if not self.is_due(update_num):
            yield
            return
        # fairseq clears the gradients before the first micro-batch of an update and after an overflow
        # (fairseq/trainer.py:802 and :1024): what was remembered before is no part of the update.
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
        """Compare gradients before the optimizer's step.

        This takes a forward and backward pass at x, and one more for each comparison.

        The gradients are summed over micro-batches and workers before any norm is taken. Norms of the workers' own
        gradients would be wrong: they hold the noise of each worker's share, and noise that is independent between
        workers vanishes from inner products but not from norms.

        Args:
            model: in fairseq's data-parallel wrapper or not.
            optimizer: fairseq's. Its loss scale keeps gradients in float16 from underflowing.
            whole: x.
        """
        self._updated = True
        if not self.is_due(update_num):
            return
        # The network inside the wrapper: a forward pass of the wrapper would prepare to reduce gradients.
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
                    # Not a number where gradients are zero: there is nothing to log.
                    self._measured |= {name: value for name, value in values.items() if value == value}

    def log(self) -> None:
        """Log what was measured, when fairseq reduces an update's metrics; otherwise the last value with weight 0.

        Averages over log intervals and epochs are therefore averages over the measured updates.
        """
        # A resumed run may bring meters from a monitored run; do not log them again.
        if self.interval == 0 or not self._updated:  # ... or a validation
            return
        self._updated = False
        measured, self._measured = self._measured, {}
        for name, value in measured.items():
            metrics.log_scalar(name, value, priority=_PRIORITY)
        # Without this fairseq's log would show None; "default" is restored with a checkpoint.
        for name, meter in list((metrics.get_meters("default") or {}).items()):
            if is_criterion(name) and name not in measured:
                metrics.log_scalar(name, meter.val, weight=0, priority=_PRIORITY)

    def _products(
        self, network: nn.Module, optimizer: Any, whole: Point, comparisons: Sequence[Comparison]
    ) -> dict[int, dict[str, GradientProducts]]:
        """Return level → layer type → sums over the whole mini-batch."""
        scale = _loss_scale(optimizer)
        result = {}
        # Autocast as around fairseq's own forward pass (fairseq/tasks/fairseq_task.py:512).
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
        """Return gradients of the sum of the losses of all micro-batches and workers, in float32 at least.

        ``torch.autograd.grad`` touches no ``.grad`` and fires no hook of a data-parallel wrapper.

        Args:
            as_in_update: start each micro-batch from the random state that the update had; otherwise go on from that
                of the last pass.
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
        """Warn the first time, the second, the fourth, the eighth, ..."""
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
    # fairseq asks for the rank in a group that a single process does not have.
    return distributed_utils.get_data_parallel_world_size() == 1 or distributed_utils.get_data_parallel_rank() == 0


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0


def _loss_scale(optimizer: Any) -> float:
    """Return the factor that keeps gradients in float16 from underflowing; 1 in other precisions.

    No criterion depends on it.
    """
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.get_scale() if isinstance(optimizer, AMPOptimizer) else scaler.loss_scale


@contextmanager
def _left_as_found(network: nn.Module) -> Iterator[None]:
    """Restore random state, modes, buffers, and which parameters need gradients on exit, whatever happens."""
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
        model_options: fairseq's, as ``task.build_model`` gets them.

    Raises:
        ValueError: the model has the core alone, or recomputes activations.
    """
    if max_level == CORE_LEVEL:
        raise ValueError("--criteria-interval compares two networks and this training has the core alone; allowed: 0")
    # Their backward pass refuses torch.autograd.grad (fairseq/modules/checkpoint_activations.py:195).
    # Offloading comes first: with it fairseq switches on the other option, which the user has not given.
    for name in ("offload_activations", "checkpoint_activations"):
        if getattr(model_options, name, False):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--criteria-interval does not work with {option}; leave one of them out")

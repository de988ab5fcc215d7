"""``--criteria-interval``: measure the paper's criteria during a training, and leave the training as it is.

In a measured update the task calls three hooks: :meth:`CriteriaMonitor.remembering` around the passes of each
micro-batch; :meth:`CriteriaMonitor.measure` before the optimizer moves anything; :meth:`CriteriaMonitor.log` when
fairseq reduces the update's metrics.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from fairseq_ats.architectures.layer_types import layer_type
from fairseq_ats.modules.levels import freeze_outside, use_level
from fairseq_ats.partition.names import CRITERIA, criterion_name, is_criterion
from fairseq_ats.partition.partition import CORE, CORE_LEVEL
from fairseq_ats.partition.tags import holds
from fairseq_ats.theory.criteria import GradientProducts, sums_of_products

logger = logging.getLogger(__name__)

DROPOUTS = ("same", "different", "off")

_PRIORITY = 420  # after gnorm, which fairseq logs with 400


@dataclass(frozen=True)
class _MicroBatch:
    """One part of an update's mini-batch, as the update's own forward pass met it."""

    criterion: Callable[..., Any]
    sample: dict[str, Any]
    rng_state: dict[str, Tensor]


class CriteriaMonitor:
    """Measures :class:`~fairseq_ats.theory.criteria.GradientProducts` of every level below the highest.

    x is the point before the update. ∇f(x̃) comes from the super-network with zeros outside the mask, and not from the
    core's own shorter forward pass: it is the paper's definition to the letter, and dropout draws the same shapes at
    both points. With the same random state the masks are then the same, those of the core's hidden neurons too, which
    in a forward pass of the narrow core would be drawn for fewer neurons.

    Args:
        interval: measure in updates 0, ``interval``, 2 · ``interval``, ...; 0 never measures.
        dropout: ``same`` masks at x and x̃, those of the update: what the paper's definition needs, in which f is one
            function; ``different`` masks; or ``off``.
        by_layer_type: report each layer type as well.
    """

    def __init__(self, interval: int, dropout: str = "same", by_layer_type: bool = False) -> None:
        self.interval = interval
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
        """Around the passes of a micro-batch: keep what it takes to run it again.

        If they fail, for want of memory, whoever goes on clears the gradients of all micro-batches so far
        (fairseq_ats/training/out_of_memory.py, fairseq/trainer.py:881): none of them is part of the update.

        Args:
            criterion: ``criterion(model, sample)`` → (loss, ...), in the update's precision.
            ignore: fairseq's ``ignore_grad``: a stand-in for a batch that this worker does not have.
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

    def measure(self, model: nn.Module, optimizer: Any, update_num: int, levels: Sequence[int]) -> None:
        """Before the optimizer's step.

        Two forward and backward passes of the super-network for two levels, one more for each further level.

        The gradients are summed over micro-batches and workers before any norm is taken. Norms of the workers' own
        gradients would not do: the norm of a mean is not the mean of the norms, which holds the noise of each worker's
        share; and a noise that is independent between workers vanishes from inner products and not from norms.

        Args:
            model: in fairseq's data-parallel wrapper or not.
            optimizer: fairseq's, whose loss scale keeps gradients in float16 from underflowing.
            levels: all levels of the model, from the core up.
        """
        self._updated = True
        if not self.is_due(update_num):
            return
        # The network inside the wrapper: a forward pass of the wrapper would prepare to reduce gradients.
        network = next(m for m in model.modules() if isinstance(m, BaseFairseqModel))
        products = self._products(network, optimizer, levels)
        self._micro_batches = []
        for level, by_type in products.items():
            total = sum(by_type.values(), GradientProducts(0.0, 0.0, 0.0, 0.0))
            network_name = CORE if level == CORE_LEVEL else f"level{level}"
            self._warn(total, update_num, level)
            reported = {None: total} | (by_type if self.by_layer_type else {})
            for layer, of_layer in reported.items():
                if of_layer.is_finite:
                    values = {criterion_name(name, network_name, layer): getattr(of_layer, name) for name in CRITERIA}
                    # Not a number where gradients are zero: there is nothing to say.
                    self._measured |= {name: value for name, value in values.items() if value == value}

    def log(self) -> None:
        """When an update's metrics are reduced; between measurements, the last value with weight 0.

        Averages over log intervals and epochs are those of the measured updates.
        """
        # Of a resumed run there may be meters of a training with the monitor: nothing of them is repeated without it.
        if self.interval == 0 or not self._updated:  # ... or a validation
            return
        self._updated = False
        measured, self._measured = self._measured, {}
        for name, value in measured.items():
            metrics.log_scalar(name, value, priority=_PRIORITY)
        # Otherwise fairseq's log would show None; "default" is restored with a checkpoint.
        for name, meter in list((metrics.get_meters("default") or {}).items()):
            if is_criterion(name) and name not in measured:
                metrics.log_scalar(name, meter.val, weight=0, priority=_PRIORITY)

    def _products(
        self, network: nn.Module, optimizer: Any, levels: Sequence[int]
    ) -> dict[int, dict[str, GradientProducts]]:
        """Level → layer type → sums, over the whole mini-batch."""
        *lower_levels, highest = levels
        scale = _loss_scale(optimizer)
        result = {}
        # Autocast as around fairseq's own forward pass (fairseq/tasks/fairseq_task.py:512).
        autocast = torch.autocast("cuda", enabled=isinstance(optimizer, AMPOptimizer))
        with _left_as_found(network), use_level(network, highest), autocast:
            freeze_outside(network, (highest,))
            if self.dropout == "off":
                network.eval()
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            gradients = self._gradients(network, parameters, scale, as_in_update=True)
            for level in lower_levels:
                masked = {name: p for name, p in parameters.items() if holds(p, level)}
                with _zeroed(p for p in network.parameters() if not holds(p, level)):
                    perturbed = self._gradients(network, masked, scale, as_in_update=self.dropout == "same")
                sums: dict[str, Tensor] = {}
                for name, gradient in gradients.items():
                    of_parameter = sums_of_products(gradient, perturbed.get(name))
                    kind = layer_type(name)
                    sums[kind] = sums[kind] + of_parameter if kind in sums else of_parameter
                result[level] = {kind: GradientProducts(*values.tolist()) for kind, values in sums.items()}
        return result

    def _gradients(
        self, network: nn.Module, parameters: dict[str, nn.Parameter], scale: float, as_in_update: bool
    ) -> dict[str, Tensor]:
        """Gradients of the sum of the losses of all micro-batches and workers, in float32 at least.

        ``torch.autograd.grad`` touches no ``.grad`` and fires no hook of a data-parallel wrapper.

        Args:
            as_in_update: with the random state in which the update ran each micro-batch; otherwise the random numbers
                go on from the last pass.
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
        """Once for the first time, the second, the fourth, the eighth, ..."""
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
    """The factor that keeps gradients in float16 from underflowing; 1 in other precisions. No criterion changes."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.get_scale() if isinstance(optimizer, AMPOptimizer) else scaler.loss_scale


@contextmanager
def _left_as_found(network: nn.Module) -> Iterator[None]:
    """Random state, modes, buffers, and which parameters need gradients come back on exit, whatever happens."""
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


@contextmanager
def _zeroed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside the context these parameters are zero; the very tensors come back on exit, whatever happens."""
    values = [(p, p.data) for p in parameters]
    for p, value in values:
        p.data = torch.zeros_like(value)
    try:
        yield
    finally:
        for p, value in values:
            p.data = value


def check_monitored(model_options: Any, max_level: int) -> None:
    """Raises ValueError for a model whose criteria cannot be measured.

    Args:
        model_options: fairseq's, as ``task.build_model`` gets them.
    """
    if max_level == CORE_LEVEL:
        raise ValueError("--criteria-interval compares two networks and this training has the core alone; allowed: 0")
    # Their backward pass refuses torch.autograd.grad (fairseq/modules/checkpoint_activations.py:195).
    # Offloading first: fairseq then switches on the other, too, which the user has not given.
    for name in ("offload_activations", "checkpoint_activations"):
        if getattr(model_options, name, False):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--criteria-interval does not work with {option}; leave one of them out")

"""Measure the paper's criteria during a training (``--criteria-interval``) without changing the training.

In a measured update the task calls three hooks. It runs the passes of each micro-batch inside
:meth:`CriteriaMonitor.remembering`, calls :meth:`CriteriaMonitor.measure` before the optimizer's step, and calls
:meth:`CriteriaMonitor.log` when fairseq reduces the update's metrics.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn

from fairseq_ats.host.workers import Workers
from fairseq_ats.modules.levels import freeze_outside
from fairseq_ats.optim.mask import EVERYTHING, require_gradients
from fairseq_ats.partition.names import CRITERIA, PERTURBATION, criterion_name, is_criterion
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.partial_sgd import Comparison
from fairseq_ats.schemes.points import Point
from fairseq_ats.theory.batch_gradients import UpdateBatch, left_as_found, network_of
from fairseq_ats.theory.criteria import GradientProducts, squared_distance, sums_of_products

logger = logging.getLogger(__name__)

DROPOUTS = ("same", "different", "off")

_PRIORITY = 420  # after gnorm, which fairseq logs with priority 400


@dataclass(frozen=True)
class CriteriaOptions:
    """The values of ``--criteria-interval``, ``--criteria-dropout``, ``--criteria-by-layer-type``, ``--criteria-of``.

    Args:
        of: None: not given.
        compares_networks: whether x is compared with networks below the highest.
    """

    interval: int
    dropout: str
    by_layer_type: bool
    of: str | None = None
    compares_networks: bool = True

    @property
    def reports_perturbation(self) -> bool:
        """Whether the cosine and the quantities of the perturbation are logged as well."""
        return self.of is not None or not self.compares_networks

    def problems(self, max_level: int | None) -> list[str]:
        """Return one message for each invalid option or combination of options.

        Args:
            max_level: the value of ``--max-level``; None if it is not given.
        """
        if self.interval < 0:
            return [f"--criteria-interval is {self.interval}; allowed: 0 (never) or more"]
        if self.interval == 0:
            given = {
                "--criteria-dropout": self.dropout != "same",
                "--criteria-by-layer-type": self.by_layer_type,
                "--criteria-of": self.of is not None,
            }
            return [f"{option} needs --criteria-interval" for option, is_given in given.items() if is_given]
        if max_level == CORE_LEVEL and self.compares_networks:
            return [
                f"--criteria-interval is {self.interval}, which compares two networks, and --max-level 1 builds the "
                "core alone; leave one of them out"
            ]
        return []


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
        reports_perturbation: whether to report the cosine, and what the perturbation δx_t does, as well.
    """

    def __init__(
        self,
        interval: int,
        layer_type: Callable[[str], str],
        dropout: str = "same",
        by_layer_type: bool = False,
        reports_perturbation: bool = False,
    ) -> None:
        self.interval = interval
        self.layer_type = layer_type
        self.dropout = dropout
        self.by_layer_type = by_layer_type
        self.reports_perturbation = reports_perturbation
        # ∇f(x) is of all of them, also in an update that moves some. --freeze takes some out of every mask.
        self.trainable: Collection[nn.Parameter] = ()
        self.frozen: Collection[nn.Parameter] = ()
        self.batch = UpdateBatch()
        self.always_remembers = False  # every update's micro-batches, for others than the monitor
        # The last alpha_t of each comparison, by level.
        self.alphas: dict[int, float] = {}
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
        """Remember a micro-batch, so that :meth:`measure` can run it again; see :meth:`UpdateBatch.remembering`."""
        if self.is_due(update_num) or self.always_remembers:
            with self.batch.remembering(model, criterion, sample, ignore):
                yield
        else:
            yield

    def measure(
        self, model: nn.Module, optimizer: Any, update_num: int, whole: Point, comparisons: Sequence[Comparison]
    ) -> None:
        """Compare the gradients at x and at each x̃ before the optimizer's step.

        This costs one forward and backward pass at x, and one more for each comparison with another x̃.

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
            self.batch.forget()
            return
        products = self._products(network_of(model), optimizer, whole, comparisons)
        self.batch.forget()
        for level, by_type in products.items():
            total = sum(by_type.values(), GradientProducts(0.0, 0.0, 0.0, 0.0))
            self._warn(total, update_num, level)
            if math.isfinite(total.alpha_t):
                self.alphas[level] = total.alpha_t
            reported = {None: total} | (by_type if self.by_layer_type else {})
            for layer, of_layer in reported.items():
                if of_layer.is_finite:
                    names = (*CRITERIA, *PERTURBATION) if self.reports_perturbation else CRITERIA
                    values = {criterion_name(name, level, layer): getattr(of_layer, name) for name in names}
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
        with left_as_found(network), autocast:
            require_gradients(self.trainable, EVERYTHING)
            freeze_outside(network, (whole.level,))
            if self.dropout == "off":
                network.eval()
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            with whole.of(network):
                gradients = self.batch.gradients(network, parameters, scale)
            # The size of a gradient matters beside that of δx_t: f is the loss that fairseq reports, a mean.
            unit = (
                (scale * self.batch.sample_size(next(iter(gradients.values())).device)) ** -2
                if self.reports_perturbation
                else 1.0
            )
            for comparison in comparisons:
                selected = comparison.mask.of
                selections = {n: p not in self.frozen and selected(p) for n, p in parameters.items()}
                inside = {name: p for name, p in parameters.items() if selections[name] is not False}
                own = {name: p.data for name, p in parameters.items()}
                perturbed, distances = gradients, {}
                if comparison.point != whole:
                    with comparison.point.of(network):
                        perturbed = self.batch.gradients(network, inside, scale, as_in_update=self.dropout == "same")
                        distances = {name: squared_distance(p.data, own[name]) for name, p in parameters.items()}
                sums: dict[str, Tensor] = {}
                for name, gradient in gradients.items():
                    other = perturbed[name] if name in inside else None
                    of_parameter = sums_of_products(gradient, other, selections[name])
                    of_parameter = torch.cat([of_parameter * unit, distances.get(name, of_parameter.new_zeros(1))])
                    kind = self.layer_type(name)
                    sums[kind] = sums[kind] + of_parameter if kind in sums else of_parameter
                result[comparison.level] = {kind: GradientProducts(*v.tolist()) for kind, v in sums.items()}
        return result

    def _warn(self, total: GradientProducts, update_num: int, level: int) -> None:
        """Warn if gradients are misaligned or not finite: at the first, second, fourth, eighth, ... occurrence."""
        if Workers.of_this_process().rank != 0:
            return
        network = {0: "perturbed network", CORE_LEVEL: "core"}.get(level, f"level {level}")
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


def check_monitored(model_options: Any, lacks_networks: bool, option: str = "--criteria-interval") -> None:
    """Refuse a model whose criteria cannot be measured.

    Args:
        model_options: fairseq's model options, as ``task.build_model`` gets them.
        lacks_networks: whether two networks are compared and the model holds only the core.
        option: what else takes gradients again, or at another point.

    Raises:
        ValueError: the model lacks networks, or recomputes or offloads activations.
    """
    if lacks_networks:
        raise ValueError("--criteria-interval compares two networks and this training has the core alone; allowed: 0")
    # The backward pass of both options refuses torch.autograd.grad (fairseq/modules/checkpoint_activations.py:195).
    # Check offloading first: it makes fairseq switch on the other option, which the user did not give.
    for name in ("offload_activations", "checkpoint_activations"):
        if getattr(model_options, name, False):
            raise ValueError(f"{option} does not work with --{name.replace('_', '-')}; leave one of them out")

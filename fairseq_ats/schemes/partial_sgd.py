"""Describe partial SGD, Algorithm 1 of the paper, and one update of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.host.workers import ALONE, Workers
from fairseq_ats.optim.mask import EVERYTHING, ElementMask, LevelMask, Mask
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.pattern import Turns
from fairseq_ats.schemes.points import MaskedPoint, NetworkPoint, Point


@dataclass(frozen=True)
class Update:
    """What one update does.

    Args:
        number: fairseq's count, from 0.
        points: where gradients are taken, in this order. The gradients add up. Every micro-batch takes all of them
            unless :meth:`Scheme.points_of` says which.
        mask: p_t, what the optimizer moves.
        lr_scale: the update's learning rate relative to the schedule's.
    """

    number: int
    points: tuple[Point, ...]
    mask: Mask = EVERYTHING
    lr_scale: float = 1.0

    @property
    def levels(self) -> tuple[int, ...]:
        """The networks that run, in order."""
        return tuple(point.level for point in self.points)


@dataclass(frozen=True)
class Comparison:
    """A pair of x̃ and p. The monitor measures the paper's criteria for it.

    Args:
        level: the network that the criteria are about; 0: none of the networks.
        point: x̃.
        mask: p.
    """

    level: int
    point: Point
    mask: Mask


class Scheme(ABC):
    """Partial SGD: x ← x − γ_t p_t ⊙ g_t, where g_t is a stochastic gradient at x + δx_t.

    A scheme is a pure function of the update's number, so that gradient accumulation, overflow retries, skipped
    batches, workers and resumed runs all agree. One that also depends on the weights or gradients of earlier updates
    saves what it needs of them.
    """

    # The highest level that the model holds.
    max_level: int
    # How many times a gradient is taken in an update besides its points.
    extra_passes: float = 0
    # Whether it has points for --perturbed-validation, and how many are validated by default.
    perturbs_validation = False
    validated_points = 0

    @property
    def patterns(self) -> tuple[Turns, ...]:
        """The patterns that were given for the turns of the networks."""
        return ()

    def attach(  # noqa: B027  most need nothing
        self, parts: ModelParts, draws: Draws, workers: Workers = ALONE
    ) -> None:
        """Tell the scheme its model, its random numbers and the workers, before the first update."""

    @abstractmethod
    def update(self, number: int) -> Update:
        """Return what the update of this number does."""

    def points_of(self, update: Update, batch: int) -> Sequence[Point]:
        """Return the points at which a micro-batch takes its gradients.

        Args:
            batch: its number within the update, over all workers: micro-batch · workers + rank.
        """
        return update.points

    def before_step(self, update: Update, take_gradients: Callable[[Point], None]) -> Update:
        """Return what the step does, now that every parameter has its gradient: reduced over workers, and clipped.

        Args:
            take_gradients: replaces the gradients by those of the same mini-batch at another point.
        """
        return update

    def after_step(self, update: Update, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027
        """Take note of a step that was made, and of its gradients."""

    def make_whole(self) -> None:  # noqa: B027
        """Give every worker the whole model, before anyone looks at it; all workers call this together."""

    @property
    def takes_turns(self) -> bool:
        """Whether each update trains one network, and each network has its turn."""
        return False

    @property
    def whole(self) -> Point:
        """x itself: the largest network of the model."""
        return NetworkPoint(self.max_level)

    def is_partial(self, update: Update) -> bool:
        """Return whether an update is masked or perturbed, so that ``--step-scale`` applies to it."""
        return update.points != (self.whole,) or isinstance(update.mask, ElementMask)

    def comparisons(self, update: Update) -> tuple[Comparison, ...]:
        """Return what the monitor compares with the gradient at :attr:`whole` in this update.

        By default that is every network below the highest, whichever of them the update trains. Its gradient is taken
        at x̃ = p ⊙ x in the super-network and not by the shorter forward pass of the network itself: this is the
        paper's definition to the letter, and dropout draws the same shapes at both points.
        """
        compared = []
        for level in range(CORE_LEVEL, self.max_level):
            mask = LevelMask((level,))
            compared.append(Comparison(level, MaskedPoint(self.max_level, mask), mask))
        return tuple(compared)

    def validation_points(self, count: int) -> tuple[Point, ...]:
        """Return ``count`` points of ``--perturbed-validation``, the same in each validation as far as x is."""
        return ()

    @property
    def is_final(self) -> bool:
        """Whether the perturbed network has its last size, so that its best checkpoint may be kept."""
        return True

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a resumed run needs of earlier updates: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from the state that a run had saved.

        Raises:
            ValueError: the state is another scheme's.
        """


class SchemeOfParts(Scheme):
    """A scheme that trains the highest network of a model alone, by its parts; a dataclass of its arguments."""

    parts: ModelParts
    draws: Draws
    workers: Workers = ALONE

    def attach(self, parts: ModelParts, draws: Draws, workers: Workers = ALONE) -> None:
        """Take the model's parts.

        Raises:
            ValueError: the scheme needs neurons, and the model has none.
        """
        if self.needs_neurons and not parts.hidden:
            other = "unit weight, or " if hasattr(self, "unit") else ""
            raise ValueError(
                "the scheme's unit is neuron, and the layers of this model do not tell neurons apart; allowed: "
                f"{other}--partitioned-linear-module-name PartitionedLinear"
            )
        self.parts, self.draws, self.workers = parts, draws, workers

    @property
    def gradients(self) -> dict[nn.Parameter, Tensor]:
        """The gradients that are there now, as they are."""
        return {p: p.grad for p in self.parts.parameters.values() if p.grad is not None}

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        """Return one message for each combination of arguments that is not allowed."""
        return []

    @property
    def needs_neurons(self) -> bool:
        """Whether the model must have neurons."""
        return False

    @property
    def typical_updates(self) -> Sequence[int]:
        """The numbers of updates whose mean cost is that of an average update, or of one at the end."""
        return (0,)

    def comparisons(self, update: Update) -> tuple[Comparison, ...]:
        """Return the update's own x̃ and p."""
        return (Comparison(0, update.points[0].reference, update.mask),)

"""Describe partial SGD, Algorithm 1 of the paper, and one update of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fairseq_ats.optim.mask import EVERYTHING, LevelMask, Mask
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.points import MaskedPoint, NetworkPoint, Point


@dataclass(frozen=True)
class Update:
    """What one update does.

    Args:
        number: fairseq's count, from 0.
        points: where gradients are taken, in this order. The gradients add up.
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
        level: the network that the criteria are about.
        point: x̃.
        mask: p.
    """

    level: int
    point: Point
    mask: Mask


class Scheme(ABC):
    """Partial SGD: x ← x − γ_t p_t ⊙ g_t, where g_t is a stochastic gradient at x + δx_t.

    A scheme is a pure function of the update's number, so that gradient accumulation, overflow retries, skipped
    batches, workers and resumed runs all agree.
    """

    # The highest level that the model holds.
    max_level: int

    @abstractmethod
    def update(self, number: int) -> Update:
        """Return what the update of this number does."""

    @property
    def takes_turns(self) -> bool:
        """Whether each update trains one network, and each network has its turn."""
        return False

    @property
    def whole(self) -> Point:
        """x itself: the largest network of the model."""
        return NetworkPoint(self.max_level)

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

"""Training schemes: which networks an update trains, as a function of the update's number alone.

============  ===================================================================================
scheme        an update
============  ===================================================================================
standard      trains the highest level
core          trains the core, the only network that is built
alternate     trains one network, in turn: Algorithm 2 of the paper (ATS) with the pattern 1:1
slimmable     runs every network and sums their gradients, as slimmable networks do (Yu et al., ICLR 2019)
============  ===================================================================================

The paper alternates 1:1 from the first update to the last. Other patterns, a warm-up of the super-network alone, a
final phase of the core alone, and an order for more than two networks are not in the paper.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fairseq_ats.partition import CORE_LEVEL

STANDARD, CORE_ALONE, ALTERNATE, SLIMMABLE = SCHEMES = ("standard", "core", "alternate", "slimmable")

# Those that train more than one network.
SCHEMES_OF_SEVERAL_NETWORKS = (ALTERNATE, SLIMMABLE)


@dataclass(frozen=True)
class Schedule:
    """Which levels each update trains.

    A pure function of the update's number, so that gradient accumulation, overflow retries, skipped batches, workers
    and resumed runs all agree.

    Args:
        scheme: one of ``SCHEMES``.
        max_level: the highest level that the model holds.
        pattern: of ``alternate``: how many updates in a row train each level, from the highest down; empty: one each.
        super_only_updates: so many updates at the start train the highest level; then the pattern begins.
        core_only_from: from this update on the core alone is trained; None: never.

    Raises:
        ValueError: the model has one network and the scheme needs two, or the pattern is not of as many networks.
    """

    scheme: str
    max_level: int
    pattern: tuple[int, ...] = ()
    super_only_updates: int = 0
    core_only_from: int | None = None

    def __post_init__(self) -> None:
        if self.scheme in SCHEMES_OF_SEVERAL_NETWORKS and self.max_level == CORE_LEVEL:
            raise ValueError(f"--scheme {self.scheme} needs two networks, and there is the core alone")
        if self.pattern and len(self.pattern) != self.max_level:
            raise ValueError(
                f"--alternate-pattern is {':'.join(map(str, self.pattern))}; allowed: {self.max_level} numbers, one "
                "for each network from the super-network down (in a YAML file in quotes, where 3:1 alone is a number)"
            )

    @property
    def masks(self) -> bool:
        """Whether there are updates that leave parameters untouched."""
        return self.scheme == ALTERNATE or self.core_only_from is not None

    @property
    def period(self) -> int:
        """Updates after which the pattern begins again."""
        return sum(self.turns) if self.scheme == ALTERNATE else 1

    @property
    def turns(self) -> tuple[int, ...]:
        """The pattern, also where none was given."""
        return self.pattern or (1,) * self.max_level

    def levels_of_update(self, update_num: int) -> tuple[int, ...]:
        """The levels that run in update ``update_num``, from the highest down; the highest is the optimizer's mask."""
        if self.core_only_from is not None and update_num >= self.core_only_from:
            return (CORE_LEVEL,)
        if self.scheme not in SCHEMES_OF_SEVERAL_NETWORKS or update_num < self.super_only_updates:
            return (self.max_level,)
        if self.scheme == SLIMMABLE:
            return tuple(range(self.max_level, CORE_LEVEL - 1, -1))
        position = (update_num - self.super_only_updates) % self.period
        ends = list(accumulate(self.turns))  # of each level's turn, from the highest level down
        return (self.max_level - bisect_right(ends, position),)


def scheme_of(cfg: Any) -> str:
    """The scheme that the task's options ask for; ``--alternate`` is the paper's name of one."""
    if cfg.scheme is not None:
        return str(cfg.scheme)
    return ALTERNATE if cfg.alternate else STANDARD


def name_of_scheme(cfg: Any) -> str:
    """How the scheme was asked for, for messages."""
    return f"--{ALTERNATE}" if cfg.alternate else f"--scheme {scheme_of(cfg)}"


def schedule_of(cfg: Any, max_level: int) -> Schedule:
    """The schedule of the task's options.

    Raises:
        ValueError: as :class:`Schedule` and :func:`parsed_pattern`.
    """
    pattern = () if cfg.alternate_pattern is None else parsed_pattern(cfg.alternate_pattern)
    return Schedule(scheme_of(cfg), max_level, pattern, cfg.super_only_updates, cfg.core_only_from)


def parsed_pattern(text: str) -> tuple[int, ...]:
    """``3:1`` → (3, 1).

    Raises:
        ValueError: anything else than whole numbers above 0 with colons between them.
    """
    parts = str(text).split(":")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(
            f"--alternate-pattern is {text!r}; allowed: whole numbers above 0 with colons between them, as in 3:1"
        )
    return tuple(map(int, parts))

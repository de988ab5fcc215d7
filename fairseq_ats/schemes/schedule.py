"""Schedule the networks of a partition: which of them an update trains depends on the update's number alone.

============  ===================================================================================
scheme        an update
============  ===================================================================================
standard      trains the highest level
core          trains the core, the only network that is built
alternate     trains one network, in turn: Algorithm 2 of the paper (ATS) with the pattern 1:1
slimmable     runs every network and sums their gradients, as slimmable networks do (Yu et al., ICLR 2019)
============  ===================================================================================

The paper alternates 1:1 from the first update to the last. Other patterns, patterns that change, a warm-up of the
super-network alone, a final phase of the core alone, and an order for more than two networks are not in the paper.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from operator import itemgetter

from fairseq_ats.optim.mask import EVERYTHING, LevelMask
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.partial_sgd import Scheme, Update
from fairseq_ats.schemes.pattern import Begun, Turns, as_text
from fairseq_ats.schemes.points import NetworkPoint


class SchemeName(StrEnum):
    """The values of ``--scheme``."""

    STANDARD = "standard"
    CORE = "core"
    ALTERNATE = "alternate"
    SLIMMABLE = "slimmable"
    # Of the highest network alone, by its parts; each is a module of this room.
    DROPOUT = "dropout"
    EXTRAGRADIENT = "extragradient"
    IST = "ist"
    LAYERWISE = "layerwise"
    MEPROP = "meprop"
    PRUNE = "prune"
    MAST = "mast"

    @property
    def trains_several(self) -> bool:
        """Whether the scheme trains more than one network."""
        return self in SCHEMES_OF_SEVERAL_NETWORKS


SCHEMES_OF_SEVERAL_NETWORKS = (SchemeName.ALTERNATE, SchemeName.SLIMMABLE)


@dataclass(frozen=True)
class Schedule(Scheme):
    """A scheme that trains one network after the other, or all of them.

    Args:
        name: the scheme.
        max_level: the highest level that the model holds.
        pattern: with ``alternate``: how many updates in a row train each level, from the highest down; empty: one each.
        super_only_updates: the first updates, this many, train the highest level alone; then the pattern begins.
        core_only_from: from this update on only the core is trained; None: never.
        changes: patterns that replace the first one, and the updates at which they begin, in ascending order.

    Raises:
        ValueError: the scheme needs two networks and the model has one, or a pattern is for another number of
            networks.
    """

    name: SchemeName
    max_level: int
    pattern: Turns = ()
    super_only_updates: int = 0
    core_only_from: int | None = None
    changes: tuple[Begun, ...] = ()

    def __post_init__(self) -> None:
        if SchemeName(self.name).trains_several and self.max_level == CORE_LEVEL:
            raise ValueError(f"--scheme {self.name} needs two networks, and there is the core alone")
        for turns in self.patterns:
            if len(turns) != self.max_level:
                raise ValueError(
                    f"--alternate-pattern is {self.pattern_text}; allowed: {self.max_level} numbers, one for each "
                    "network from the super-network down (in a YAML file in quotes, where 3:1 alone is a number)"
                )

    @property
    def takes_turns(self) -> bool:
        return self.name == SchemeName.ALTERNATE

    @property
    def period(self) -> int:
        """Updates after which the first pattern begins again."""
        return sum(self.turns) if self.takes_turns else 1

    @property
    def turns(self) -> Turns:
        """The first pattern, also where none was given."""
        return self.pattern or (1,) * self.max_level

    @property
    def patterns(self) -> tuple[Turns, ...]:
        """All patterns that were given, each once."""
        given = [self.pattern] if self.pattern else []
        return tuple(dict.fromkeys([*given, *(turns for _, turns in self.changes)]))

    @property
    def pattern_text(self) -> str:
        """The patterns as ``--alternate-pattern`` has them, also where none was given."""
        return as_text([(0, self.turns), *self.changes])

    def update(self, number: int) -> Update:
        levels = self._levels(number)
        # Where every update trains everything, an optimizer that knows no mask will do.
        masks = self.takes_turns or self.core_only_from is not None
        return Update(number, tuple(map(NetworkPoint, levels)), LevelMask(levels) if masks else EVERYTHING)

    def _levels(self, number: int) -> tuple[int, ...]:
        """Return the levels that run, from the highest down."""
        if self.core_only_from is not None and number >= self.core_only_from:
            return (CORE_LEVEL,)
        if not SchemeName(self.name).trains_several or number < self.super_only_updates:
            return (self.max_level,)
        if self.name == SchemeName.SLIMMABLE:
            return tuple(range(self.max_level, CORE_LEVEL - 1, -1))
        changed = bisect_right(self.changes, number, key=itemgetter(0))  # so many times by now
        start, turns = self.changes[changed - 1] if changed else (0, self.turns)
        position = (number - max(start, self.super_only_updates)) % sum(turns)
        ends = list(accumulate(turns))  # of each level's turn, from the highest level down
        return (self.max_level - bisect_right(ends, position),)

"""What a partition is: which layer type, which ratios, how many levels.

The *super-network* is everything, the *core* is the network inside it, the *extension* is what the
super-network has and the core has not. Levels count the networks from the inside: level 1 is the core,
level 2 the super-network (the paper's ``max_level`` counts these).

With several ratios, which is not in the paper, there are networks between the two: level 1 is inside level 2, level 2
inside level 3, and so on up to the super-network, whose level is the number of ratios + 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

CORE_LEVEL = 1

# Names of the networks; those between the two are called "level2", "level3", ...
CORE = "core"
SUPER = "super"

MODULE_NAMES = ("PartitionedRankLinear", "PartitionedLinear")

# Table 4 of the paper.
DEFAULT_MODULE_NAME = "PartitionedRankLinear"
DEFAULT_SMALL_RATIO = 0.03125

# One ratio, or one for each level below the super-network.
SmallRatio = float | Sequence[float]


def ratios_of(small_ratio: SmallRatio) -> tuple[float, ...]:
    """The ratios of the levels below the super-network, from the core up."""
    return tuple(small_ratio) if isinstance(small_ratio, list | tuple) else (cast(float, small_ratio),)


def parse_small_ratio(value: str | float | None) -> SmallRatio | None:
    """The value of ``--small-ratio``: "0.25", or "0.03125,0.125"; None stands for "not given".

    The option is a string in fairseq's configuration, since fairseq knows no option that is one number or several.
    Checkpoints of older versions hold a number.

    Raises:
        ValueError: something else than numbers with commas between them.
    """
    if value is None:
        return None
    try:
        ratios = tuple(float(part) for part in str(value).split(","))
    except ValueError:
        raise ValueError(
            f"--small-ratio is {value!r}; allowed: a number, or several with commas between them, as in 0.03125,0.125"
        ) from None
    return ratios[0] if len(ratios) == 1 else ratios


def shown(small_ratio: SmallRatio) -> str:
    """As it is given on the command line."""
    return ",".join(map(str, ratios_of(small_ratio)))


@dataclass(frozen=True)
class Partition:
    """How a model is partitioned; saved in its checkpoint, so that decoding need not repeat it.

    Args:
        module_name: ``PartitionedRankLinear`` (low rank) or ``PartitionedLinear`` (small width).
        small_ratio: the paper's r, 0 < r < 1: rank, or width, of the core relative to the full layer. Several, in
            ascending order, are those of the levels below the super-network; kept as a tuple, and one as a number.
        max_level: the highest level that the model holds: 1 is the core alone; None is the super-network.

    Raises:
        ValueError: a value outside the allowed ones.
        TypeError: a ratio that is no number.
    """

    module_name: str = DEFAULT_MODULE_NAME
    small_ratio: SmallRatio = DEFAULT_SMALL_RATIO
    max_level: int = cast(int, None)  # an int from __post_init__ on

    def __post_init__(self) -> None:
        problems = self.problems(self.module_name, self.small_ratio, self.max_level)
        if problems:
            raise ValueError("; ".join(problems))
        ratios = ratios_of(self.small_ratio)
        object.__setattr__(self, "small_ratio", ratios[0] if len(ratios) == 1 else ratios)
        if self.max_level is None:
            object.__setattr__(self, "max_level", self.super_level)

    @staticmethod
    def problems(module_name: str | None, small_ratio: SmallRatio | None, max_level: int | None) -> list[str]:
        """One sentence for each value that is not allowed; None stands for "not given"."""
        found = []
        if module_name is not None and module_name not in MODULE_NAMES:
            found.append(f"--partitioned-linear-module-name is {module_name!r}; allowed: {', '.join(MODULE_NAMES)}")
        if small_ratio is not None:
            found += _ratio_problems(ratios_of(small_ratio))
        if max_level is None:
            return found
        if small_ratio is None:  # it comes from the checkpoint
            allowed, highest = f"{CORE_LEVEL} (the core alone) or 2 and above, up to the super-network", max_level
        else:
            highest = len(ratios_of(small_ratio)) + 1
            allowed = f"{CORE_LEVEL} (the core alone) {'or' if highest == 2 else 'to'} {highest} (the super-network)"
        if not CORE_LEVEL <= max_level <= highest:
            found.append(f"--max-level is {max_level}; allowed: {allowed}")
        return found

    @property
    def small_ratios(self) -> tuple[float, ...]:
        """Those of the levels below the super-network, from the core up."""
        return ratios_of(self.small_ratio)

    @property
    def super_level(self) -> int:
        """The level of the super-network, whether the model holds it or not."""
        return len(self.small_ratios) + 1

    @property
    def levels(self) -> range:
        """The levels that the model holds, from the core up."""
        return range(CORE_LEVEL, self.max_level + 1)

    def network_name(self, level: int) -> str:
        """``core``, ``super``, or ``level2``, ``level3``, ... for the networks between the two."""
        if level == CORE_LEVEL:
            return CORE
        return SUPER if level == self.super_level else f"level{level}"

    @property
    def network_levels(self) -> dict[str, int]:
        """Name → level of every network up to the super-network, whether the model holds it or not."""
        return {self.network_name(level): level for level in range(CORE_LEVEL, self.super_level + 1)}

    def level_of(self, network: str | int) -> int:
        """The level that is given by its number or by the network's name.

        Raises:
            ValueError: there is no such level.
        """
        numbers = self.network_levels | {str(level): level for level in self.network_levels.values()}
        if str(network) not in numbers:
            raise ValueError(f"--level is {network}; allowed: {', '.join(numbers)}")
        return numbers[str(network)]

    def to_dict(self) -> dict[str, str | float | int | list[float]]:
        """Plain values only: the weights-only unpickler must be able to read them back."""
        ratios = self.small_ratio
        return asdict(self) | {"small_ratio": list(ratios) if isinstance(ratios, tuple) else ratios}


def _ratio_problems(ratios: tuple[float, ...]) -> list[str]:
    in_range = all(0.0 < ratio < 1.0 for ratio in ratios)
    if len(ratios) == 1:
        return [] if in_range else [f"--small-ratio is {shown(ratios)}; allowed: 0 < ratio < 1"]
    ascending = all(lower < upper for lower, upper in pairwise(ratios))
    if in_range and ascending and ratios:
        return []
    return [f"--small-ratio is {shown(ratios)}; allowed: 0 < ratio < 1, each larger than the one before it"]


def check_level_name(level: str | int) -> None:
    """For a level that is given before it is known which ones there are; see :meth:`Partition.level_of`.

    Raises:
        ValueError: no partition has such a level.
    """
    if not re.fullmatch(rf"{CORE}|{SUPER}|(level)?[1-9]\d*", str(level)):
        raise ValueError(f"--level is {level}; allowed: {CORE}, {SUPER}, 1, 2, ... (or level2, ...)")


def core_size(full_size: int, ratio: float) -> int:
    """``max(1, round(ratio * full_size))``: rank, width or key dimension of a level below the super-network.

    The paper writes k = r·min(f_in, f_out) and does not say how k is rounded.
    """
    return max(1, round(ratio * full_size))


def reconciled(given: dict[str, Any], saved: Partition | None, source: str) -> Partition:
    """The partition of a checkpoint, at the level that is asked for.

    Args:
        given: the options that were given, by field name; they may repeat the checkpoint's and not change them.
        saved: the checkpoint's partition.
        source: what to call the checkpoint in a message.

    Raises:
        ValueError: the options contradict the checkpoint, or it was not written by this plugin's task.
    """
    if saved is None:
        raise ValueError(
            f"{source} was not written by --task translation_with_partitioned_model; use it with the task that trained "
            "it"
        )
    problems = []
    if given.get("module_name", saved.module_name) != saved.module_name:
        problems.append(
            _contradiction("--partitioned-linear-module-name", given["module_name"], saved.module_name, source)
        )
    ratios = ratios_of(given.get("small_ratio", saved.small_ratio))
    if ratios != saved.small_ratios:
        problems.append(_contradiction("--small-ratio", shown(ratios), shown(saved.small_ratio), source))
    max_level = saved.max_level if given.get("max_level") is None else given["max_level"]
    if saved.max_level < max_level <= saved.super_level:
        held = "level 1 only: a core alone" if saved.max_level == CORE_LEVEL else f"levels 1 to {saved.max_level} only"
        problems.append(f"--max-level is {max_level} and {source} holds {held}")
    problems += Partition.problems(None, saved.small_ratio, max_level)
    if problems:
        raise ValueError("; ".join(problems))
    return Partition(saved.module_name, saved.small_ratio, max_level)


def _contradiction(option: str, given: str, saved: str, source: str) -> str:
    return f"{option} is {given} and {source} was trained with {saved}; leave the option out"

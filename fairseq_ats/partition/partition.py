"""Describe a partition: its layer type, its ratios and its levels.

The *super-network* is the whole model. The *core* is a smaller network inside it. The *extension* is the part of the
super-network that is not in the core. Levels number the networks from the inside out: level 1 is the core, level 2 is
the super-network (the paper's ``max_level`` counts these levels).

A partition may have several ratios; this is not in the paper. Further networks then lie between the core and the
super-network: level 1 is inside level 2, level 2 is inside level 3, and so on. The super-network's level is the number
of ratios + 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

CORE_LEVEL = 1

# Names of the networks. The networks between the core and the super-network are called "level2", "level3", ...
CORE = "core"
SUPER = "super"

MODULE_NAMES = ("PartitionedRankLinear", "PartitionedLinear")

# The layer type of a convolutional network, which has no other.
CONVOLUTION = "PartitionedConv2d"

# The defaults are from Table 4 of the paper.
DEFAULT_MODULE_NAME = "PartitionedRankLinear"
DEFAULT_SMALL_RATIO = 0.03125

# One ratio, or one for each level below the super-network.
SmallRatio = float | Sequence[float]


def ratios_of(small_ratio: SmallRatio) -> tuple[float, ...]:
    """Return the ratios of the levels below the super-network, from the core up."""
    return tuple(small_ratio) if isinstance(small_ratio, list | tuple) else (cast(float, small_ratio),)


def parse_small_ratio(value: str | float | None) -> SmallRatio | None:
    """Parse a value of ``--small-ratio``, such as "0.25" or "0.03125,0.125". Return None if it is None (not given).

    The option is a string in fairseq's configuration, because fairseq has no option type for one number or several.
    Checkpoints of older versions hold a number.

    Raises:
        ValueError: the value is not a number or a list of numbers separated by commas.
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
    """Return ``small_ratio`` in the form of the command line, such as "0.03125,0.125"."""
    return ",".join(map(str, ratios_of(small_ratio)))


@dataclass(frozen=True)
class Partition:
    """The way a model is partitioned. It is saved in the checkpoint, so that decoding needs no options for it.

    Args:
        module_name: ``PartitionedRankLinear`` (low rank) or ``PartitionedLinear`` (small width).
        small_ratio: the paper's r, 0 < r < 1: the rank or width of the core relative to the full layer. Several ratios,
            in ascending order, give one ratio for each level below the super-network. The object keeps one ratio as a
            number and several as a tuple.
        max_level: the highest level that the model holds. 1 is the core alone; None is the super-network.

    Raises:
        ValueError: a value is not allowed.
        TypeError: a ratio is not a number.
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
        """Return one message for each value that is not allowed. None means that the value is not given."""
        found = []
        if module_name is not None and module_name not in (*MODULE_NAMES, CONVOLUTION):
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
        """The ratios of the levels below the super-network, from the core up."""
        return ratios_of(self.small_ratio)

    @property
    def super_level(self) -> int:
        """The level of the super-network, even if the model does not hold it."""
        return len(self.small_ratios) + 1

    @property
    def levels(self) -> range:
        """The levels that the model holds, from the core up."""
        return range(CORE_LEVEL, self.max_level + 1)

    def network_name(self, level: int) -> str:
        """Return the name of the network of ``level``: ``core``, ``super``, or ``level2``, ... between the two."""
        if level == CORE_LEVEL:
            return CORE
        return SUPER if level == self.super_level else f"level{level}"

    @property
    def network_levels(self) -> dict[str, int]:
        """Map from name to level of every network up to the super-network, even if the model does not hold it."""
        return {self.network_name(level): level for level in range(CORE_LEVEL, self.super_level + 1)}

    def level_of(self, network: str | int) -> int:
        """Return the level of ``network``, which is a level's number or a network's name.

        Raises:
            ValueError: the partition has no such level.
        """
        numbers = self.network_levels | {str(level): level for level in self.network_levels.values()}
        if str(network) not in numbers:
            raise ValueError(f"--level is {network}; allowed: {', '.join(numbers)}")
        return numbers[str(network)]

    def to_dict(self) -> dict[str, str | float | int | list[float]]:
        """Return the fields as plain values, which PyTorch's weights-only unpickler can read back."""
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
    """Check the form of a level's name before the partition is known; :meth:`Partition.level_of` checks the rest.

    Raises:
        ValueError: no partition can have such a level.
    """
    if not re.fullmatch(rf"{CORE}|{SUPER}|(level)?[1-9]\d*", str(level)):
        raise ValueError(f"--level is {level}; allowed: {CORE}, {SUPER}, 1, 2, ... (or level2, ...)")


def core_size(full_size: int, ratio: float) -> int:
    """Return the rank, width or key dimension of a level below the super-network: ``max(1, round(ratio * full_size))``.

    The paper writes k = r·min(f_in, f_out) and does not say how k is rounded.
    """
    return max(1, round(ratio * full_size))


def reconciled(given: dict[str, Any], saved: Partition | None, source: str) -> Partition:
    """Return the checkpoint's partition with the highest level that the options ask for.

    Args:
        given: the options on the command line, by field name. They may repeat the checkpoint's module name and ratios
            but not change them.
        saved: the checkpoint's partition; None if the checkpoint has none.
        source: the name of the checkpoint in error messages.

    Raises:
        ValueError: the options contradict the checkpoint, the checkpoint does not hold the level, or this plugin's task
            did not write the checkpoint.
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

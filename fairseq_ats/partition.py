"""What a partition is: which layer type, which ratio, how many levels.

The *super-network* is everything, the *core* is the network inside it, the *extension* is what the
super-network has and the core has not. Levels count the networks from the inside: level 1 is the core,
level 2 the super-network (the paper's ``max_level`` counts these).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CORE_LEVEL = 1
SUPER_LEVEL = 2

MODULE_NAMES = ("PartitionedRankLinear", "PartitionedLinear")

# Table 4 of the paper.
DEFAULT_MODULE_NAME = "PartitionedRankLinear"
DEFAULT_SMALL_RATIO = 0.03125


@dataclass(frozen=True)
class Partition:
    """How a model is partitioned; saved in its checkpoint, so that decoding need not repeat it.

    Args:
        module_name: ``PartitionedRankLinear`` (low rank) or ``PartitionedLinear`` (small width).
        small_ratio: the paper's r, 0 < r < 1: rank, or width, of the core relative to the full layer.
        max_level: the highest level that the model holds: 1 (the core alone) or 2 (the super-network).

    Raises:
        ValueError: a value outside the allowed ones.
    """

    module_name: str = DEFAULT_MODULE_NAME
    small_ratio: float = DEFAULT_SMALL_RATIO
    max_level: int = SUPER_LEVEL

    def __post_init__(self) -> None:
        problems = self.problems(self.module_name, self.small_ratio, self.max_level)
        if problems:
            raise ValueError("; ".join(problems))

    @staticmethod
    def problems(module_name: str | None, small_ratio: float | None, max_level: int | None) -> list[str]:
        """One sentence for each value that is not allowed; None stands for "not given"."""
        found = []
        if module_name is not None and module_name not in MODULE_NAMES:
            found.append(f"--partitioned-linear-module-name is {module_name!r}; allowed: {', '.join(MODULE_NAMES)}")
        if small_ratio is not None and not 0.0 < small_ratio < 1.0:
            found.append(f"--small-ratio is {small_ratio}; allowed: 0 < ratio < 1")
        if max_level is not None and not CORE_LEVEL <= max_level <= SUPER_LEVEL:
            found.append(
                f"--max-level is {max_level}; allowed: {CORE_LEVEL} (the core alone) or {SUPER_LEVEL} "
                "(the super-network)"
            )
        return found

    @property
    def levels(self) -> range:
        """The levels that the model holds, from the core up."""
        return range(CORE_LEVEL, self.max_level + 1)

    def to_dict(self) -> dict[str, str | float | int]:
        """Plain values only: the weights-only unpickler must be able to read them back."""
        return asdict(self)


def core_size(full_size: int, ratio: float) -> int:
    """``max(1, round(ratio * full_size))``: the core's rank, width or key dimension.

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
    problems = [
        f"{option} is {given[name]} and {source} was trained with {getattr(saved, name)}; leave the option out"
        for name, option in (("module_name", "--partitioned-linear-module-name"), ("small_ratio", "--small-ratio"))
        if name in given and given[name] != getattr(saved, name)
    ]
    max_level = saved.max_level if given.get("max_level") is None else given["max_level"]
    if saved.max_level < max_level <= SUPER_LEVEL:
        problems.append(f"--max-level is {max_level} and {source} holds level {saved.max_level} only: a core alone")
    problems += Partition.problems(None, None, max_level)
    if problems:
        raise ValueError("; ".join(problems))
    return Partition(saved.module_name, saved.small_ratio, max_level)

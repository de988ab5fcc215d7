"""Describe a partition: what is split by which kind, and its levels.

The *super-network* is the whole model. The *core* is a smaller network inside it. The *extension* is the part of the
super-network that is not in the core. Levels number the networks from the inside out: level 1 is the core, level 2 is
the super-network (the paper's ``max_level`` counts these levels).

A partition may have several ratios; this is not in the paper. Further networks then lie between the core and the
super-network: level 1 is inside level 2, level 2 is inside level 3, and so on. The super-network's level is the number
of ratios + 1.

The paper's partitions split feed-forward modules, keys and queries by one kind. A depth, a kind for each kind of
linear layer, and norms of a network's own are not in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from fairseq_ats.partition.fields import (
    DEPTHS,
    SHARES,
    CoreLayers,
    PrivateNorms,
    as_text,
    numbers_of,
    option_of,
    plain,
    typed,
    value_problems,
)
from fairseq_ats.partition.shares import LINEARS, RANK, WHOLE, Share

CORE_LEVEL = 1
# The super-network of a pair of networks, which nothing is between.
PAIR_LEVEL = 2

# Names of the networks. The networks between the core and the super-network are called "level2", "level3", ...
CORE = "core"
SUPER = "super"
# No network of a partition: what is left where a scheme perturbs the highest. In place of a level it has 0.
PERTURBED = "perturbed"
PERTURBED_LEVEL = 0

# The defaults are from Table 4 of the paper.
DEFAULT_MODULE_NAME = RANK
DEFAULT_SMALL_RATIO = 0.03125
# The best or as good as the best in four settings of decoder layers, post-norm, Multi30k: results/kinds.
DEFAULT_CORE_LAYERS = CoreLayers.LAST

_OF_THE_PAPER = ("module_name", "small_ratio", "max_level")


@dataclass(frozen=True, repr=False)
class Partition:
    """The way a model is partitioned. It is saved in the checkpoint, so that decoding needs no options for it.

    A field that is None is not given. If ``module_name`` and ``small_ratio`` are both not given, and another field is,
    they split nothing; otherwise they have the paper's values by default.

    Args:
        module_name: ``PartitionedRankLinear`` (low rank) or ``PartitionedLinear`` (small width), for feed-forward
            modules, queries and keys.
        small_ratio: the paper's r, 0 < r < 1: the rank or width of the core relative to the full layer. Several ratios,
            in ascending order, give one ratio for each level below the super-network. A number becomes a tuple.
        max_level: the highest level that the model holds. 1 is the core alone; None is the super-network.
        core_encoder_layers, core_decoder_layers: how many layers each level below the super-network runs.
        core_layers: which layers these are; ``last`` where there is a depth.
        core_ffn, core_qk, core_vo: the share of one kind of linear layer; it counts for more than ``module_name``.
        private_norms: which norms each network has for itself.
        extension_arch, extension_args: the arch of a second network and its options in JSON. The core is then the whole
            network of ``--arch``, and nothing of it is split.

    Raises:
        ValueError: a value is not allowed.
        TypeError: a ratio or a number of layers is not a number.
    """

    module_name: str | None = None
    small_ratio: tuple[float, ...] | None = None
    max_level: int = cast(int, None)  # an int from __post_init__ on
    core_encoder_layers: tuple[int, ...] | None = None
    core_decoder_layers: tuple[int, ...] | None = None
    core_layers: CoreLayers | None = None
    core_ffn: Share | None = None
    core_qk: Share | None = None
    core_vo: Share | None = None
    private_norms: PrivateNorms = PrivateNorms.NONE
    extension_arch: str | None = None
    extension_args: str | None = None

    def __post_init__(self) -> None:
        for name, value in typed(vars(self)).items():
            object.__setattr__(self, name, value)
        if self.module_name is not None or self.small_ratio is not None or not self._of_other_kinds:
            for name, default in (("module_name", DEFAULT_MODULE_NAME), ("small_ratio", (DEFAULT_SMALL_RATIO,))):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, default)
        problems = self.problems(vars(self)) + self._problems_of_all()
        if problems:
            raise ValueError("; ".join(problems))
        if self.core_layers is None and self._has_depth:
            object.__setattr__(self, "core_layers", DEFAULT_CORE_LAYERS)
        if self.max_level is None:
            object.__setattr__(self, "max_level", self.super_level)

    @staticmethod
    def problems(given: Mapping[str, Any]) -> list[str]:
        """Return one message for each value that is not allowed.

        Args:
            given: typed values by the names of the fields. What is missing or None is not given; it may come from a
                checkpoint.
        """
        found = value_problems(given)
        max_level, counts = given.get("max_level"), {len(values) for values in numbers_of(given).values()}
        if (arch := given.get("extension_arch")) is not None:
            split = [name for name in (*_OF_THE_PAPER[:2], *DEPTHS, *SHARES) if given.get(name) is not None]
            found += [
                f"--extension-arch is {arch} and {option_of(name)} is {as_text(given[name])}; the core is then the "
                "whole network of --arch; leave one of them out"
                for name in split
            ]
            counts = {PAIR_LEVEL - CORE_LEVEL}
        if max_level is None:
            return found
        if not counts:  # they come from the checkpoint
            allowed, highest = f"{CORE_LEVEL} (the core alone) or 2 and above, up to the super-network", max_level
        else:
            highest = min(counts) + 1
            allowed = f"{CORE_LEVEL} (the core alone) {'or' if highest == 2 else 'to'} {highest} (the super-network)"
        if not CORE_LEVEL <= max_level <= highest:
            found.append(f"--max-level is {max_level}; allowed: {allowed}")
        return found

    def _problems_of_all(self) -> list[str]:
        """Return one message for each value that makes no sense with the others."""
        if self.extension_arch is not None:
            others = self._of_other_kinds.keys() - {"extension_arch", "extension_args", *DEPTHS, *SHARES}
            return [f"--extension-arch is {self.extension_arch} and {option_of(n)} is given" for n in sorted(others)]
        if self.extension_args is not None:
            return [f"--extension-args is {self.extension_args}, which needs --extension-arch"]
        if not numbers_of(vars(self)):
            options = " and ".join(option_of(name) for name in self._of_other_kinds)
            return [f"{options} makes no network smaller than the super-network; add a ratio or a number of layers"]
        if self.core_layers is not None and not self._has_depth:
            return [f"--core-layers is {self.core_layers}, which needs --core-encoder-layers or --core-decoder-layers"]
        return []

    @property
    def _has_depth(self) -> bool:
        return any(getattr(self, name) is not None for name in DEPTHS)

    @property
    def _of_other_kinds(self) -> dict[str, Any]:
        """The fields that the paper does not have and that are given."""
        others = [field for field in fields(self) if field.name not in _OF_THE_PAPER]
        return {field.name: value for field in others if (value := getattr(self, field.name)) != field.default}

    def share(self, linear: str) -> Share:
        """Return what the smaller networks have of one of ``LINEARS``."""
        own: Share | None = getattr(self, f"core_{linear}")
        if own is not None:
            return own
        if linear == "vo" or self.module_name is None or self.small_ratio is None:
            return WHOLE
        return Share(self.module_name, self.small_ratio)

    def splits_by(self, module_name: str) -> bool:
        """Return whether any linear layer is split by this layer type."""
        return any(self.share(linear).module_name == module_name for linear in LINEARS)

    def layers_at(self, side: str, total: int) -> list[tuple[int, ...]] | None:
        """Return the indices of the layers that each level below the super-network runs, from the core up.

        Args:
            side: one of ``SIDES``.
            total: the number of layers of that side.

        Returns:
            None: every level runs all of them.
        """
        depths: tuple[int, ...] | None = getattr(self, f"core_{side}_layers")
        if depths is None:
            return None
        assert self.core_layers is not None  # from __post_init__ on
        return [self.core_layers.chosen(total, depth) for depth in depths]

    @property
    def sizes(self) -> str:
        """The options that say how large the smaller networks are, for messages: "--small-ratio is 0.25,0.5"."""
        return " and ".join(f"{option_of(name)} is {as_text(getattr(self, name))}" for name in numbers_of(vars(self)))

    @property
    def super_level(self) -> int:
        """The level of the super-network, even if the model does not hold it."""
        if self.extension_arch is not None:
            return PAIR_LEVEL
        return len(next(iter(numbers_of(vars(self)).values()))) + 1

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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, which PyTorch's weights-only unpickler can read back.

        The fields that the paper does not have are there only if they are given.
        """
        paper = {name: getattr(self, name) for name in _OF_THE_PAPER}
        return {name: plain(value) for name, value in (paper | self._of_other_kinds).items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Partition:
        """Return the partition that :meth:`to_dict` described.

        A description with a depth that names no layers is from before ``last`` became the default; it means the
        first layers.

        Raises:
            ValueError: a value is not allowed.
            TypeError: a field is unknown, or a number is not one.
        """
        given = dict(saved)
        has_depth = any(given.get(name) is not None for name in DEPTHS)
        return cls(**({"core_layers": CoreLayers.FIRST} if has_depth else {}) | given)

    def __repr__(self) -> str:
        return f"Partition({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


def check_level_name(level: str | int) -> None:
    """Check the form of a level's name before the partition is known; :meth:`Partition.level_of` checks the rest.

    Raises:
        ValueError: no partition can have such a level.
    """
    if not re.fullmatch(rf"{CORE}|{SUPER}|{PERTURBED}|(level)?[1-9]\d*", str(level)):
        raise ValueError(f"--level is {level}; allowed: {CORE}, {SUPER}, 1, 2, ... (or level2, ...), {PERTURBED}")


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
    given = typed(given)
    problems = [
        _contradiction(option_of(name), value, getattr(saved, name), source)
        for name, value in given.items()
        if name != "max_level" and value != getattr(saved, name)
    ]
    max_level = saved.max_level if given.get("max_level") is None else given["max_level"]
    if saved.max_level < max_level <= saved.super_level:
        held = "level 1 only: a core alone" if saved.max_level == CORE_LEVEL else f"levels 1 to {saved.max_level} only"
        problems.append(f"--max-level is {max_level} and {source} holds {held}")
    problems += Partition.problems(vars(saved) | {"max_level": max_level})
    if problems:
        raise ValueError("; ".join(problems))
    return replace(saved, max_level=max_level)


def _contradiction(option: str, given: Any, saved: Any, source: str) -> str:
    trained = "without it" if saved is None else f"with {as_text(saved)}"
    return f"{option} is {as_text(given)} and {source} was trained {trained}; leave the option out"

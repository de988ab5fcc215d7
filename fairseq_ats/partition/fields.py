"""Read and write the fields of a partition: as options, as in a checkpoint, and what is allowed of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Any, cast

from fairseq_ats.partition.shares import (
    CONVOLUTION,
    LINEARS,
    MODULE_NAMES,
    WHOLE,
    Share,
    SmallRatio,
    parse_small_ratio,
    ratios_of,
    shown,
)

SIDES = ("encoder", "decoder")

SHARES = tuple(f"core_{linear}" for linear in LINEARS)
DEPTHS = tuple(f"core_{side}_layers" for side in SIDES)


class CoreLayers(StrEnum):
    """The values of ``--core-layers``: which layers of a stack the smaller networks run."""

    FIRST = "first"
    SPREAD = "spread"
    LAST = "last"

    def chosen(self, total: int, depth: int) -> tuple[int, ...]:
        """Return the indices of ``depth`` layers of ``total``, ascending. Fewer layers are among more layers.

        ``spread`` halves the distances: of six layers it takes 0; 0, 4; 0, 2, 4; 0, 1, 2, 4; ...
        """
        order = list(range(total))
        if self == CoreLayers.LAST:
            order.reverse()
        elif self == CoreLayers.SPREAD:
            width = (total - 1).bit_length()
            order.sort(key=lambda index: f"{index:0{width}b}"[::-1])
        return tuple(sorted(order[:depth]))


class PrivateNorms(StrEnum):
    """The values of ``--private-norms``: which norms each network has for itself."""

    NONE = "none"
    FINAL = "final"
    ALL = "all"


def option_of(field: str) -> str:
    """Return the option of a field of :class:`Partition`."""
    return "--" + ("partitioned_linear_module_name" if field == "module_name" else field).replace("_", "-")


def typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a partition as typed values.

    Args:
        given: by name; a value may be an option's text, or plain as in a checkpoint. None is not given.

    Raises:
        ValueError: a text says nothing that is allowed.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        try:
            values |= {} if value is None else {name: _typed(name, value)}
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems))
    return values


def _typed(name: str, value: Any) -> Any:
    if name == "small_ratio":
        return ratios_of(cast(SmallRatio, parse_small_ratio(value)) if isinstance(value, str) else value)
    try:
        if name in DEPTHS:
            return tuple(map(int, value.split(",") if isinstance(value, str) else ratios_of(value)))
        if name in SHARES and not isinstance(value, Share):
            return Share.parse(value)
    except ValueError:
        allowed = "whole, rank:R or width:R, where R is one ratio or several, as in width:0.25"
        if name in DEPTHS:
            allowed = "a whole number from 1 up, or several with commas between them, as in 2,4"
        raise ValueError(f"{option_of(name)} is {value!r}; allowed: {allowed}") from None
    if name == "extension_args":
        return json.dumps(arguments_of(value), sort_keys=True)
    kind = {"core_layers": CoreLayers, "private_norms": PrivateNorms}.get(name)
    return value if kind is None else kind(value)


def arguments_of(text: str) -> dict[str, Any]:
    """Return what ``--extension-args`` says.

    Raises:
        ValueError: it is not an object in JSON, or a value is not a number, a text, true or false.
    """
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if isinstance(given, dict) and all(isinstance(value, int | float | str) for value in given.values()):
        return given
    raise ValueError(f"--extension-args is {text}; allowed: options in JSON, as in '{{\"encoder_layers\": 2}}'")


def as_text(value: Any) -> str:
    """Return a field's value in the form of the command line."""
    return shown(value) if isinstance(value, tuple) else str(value)


def plain(value: Any) -> Any:
    """Return a field's value as a number, a text or a list; :func:`typed` is the inverse."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    return str(value) if isinstance(value, Share | StrEnum) else value


def numbers_of(given: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Return the values that have a number for each level below the super-network, by field."""
    lists = {name: given.get(name) for name in ("small_ratio", *DEPTHS)}
    lists |= {name: share.ratios for name in SHARES if (share := given.get(name)) is not None and share != WHOLE}
    return {name: values for name, values in lists.items() if values is not None}


def value_problems(given: Mapping[str, Any]) -> list[str]:
    """Return one message for each value that is out of range, or does not ascend, or has another number of levels."""
    found = []
    name, numbers = given.get("module_name"), numbers_of(given)
    if name is not None and name not in (*MODULE_NAMES, CONVOLUTION):
        found.append(f"--partitioned-linear-module-name is {name!r}; allowed: {', '.join(MODULE_NAMES)}")
    for field, values in numbers.items():
        if problem := _problem_of_numbers(values, field in DEPTHS, is_alone=len(numbers) == 1):
            found.append(f"{option_of(field)} is {as_text(given[field])}; allowed: {problem}")
    if len({len(values) for values in numbers.values()}) > 1:
        different = " and ".join(f"{option_of(field)} has {len(values)}" for field, values in numbers.items())
        found.append(f"{different}; allowed: one number in each for each level below the super-network")
    return found


def _problem_of_numbers(values: tuple[float, ...], are_layers: bool, is_alone: bool) -> str | None:
    """Return what is allowed of one number for each level, if these are not.

    Args:
        is_alone: whether nothing else tells the levels apart; then each number must be larger than the one before it.
    """
    in_range = all(value >= 1 if are_layers else 0.0 < value < 1.0 for value in values)
    ascending = all(lower < upper or (lower == upper and not is_alone) for lower, upper in pairwise(values))
    if in_range and ascending and values:
        return None
    allowed = "1 layer or more" if are_layers else "0 < ratio < 1"
    than = "larger than" if is_alone else "at least"
    return allowed if len(values) == 1 else f"{allowed}, each {than} the one before it"

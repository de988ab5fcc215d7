"""Declare the arguments of schemes as fields of their dataclasses, and read them from JSON (``--scheme-args``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
from types import MappingProxyType
from typing import Any, get_type_hints

_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


def argument(
    meaning: str,
    allowed: str = "",
    test: Callable[[Any], bool] = lambda value: True,
    default: Any = MISSING,
    option: str = "",
) -> Any:
    """Declare a field that is an argument.

    Args:
        meaning: for the help.
        allowed: its range, for the help and for messages; empty: every value of its type.
        test: whether a value of the right type is in the range.
        default: without one the argument must be given.
        option: of its own, in which it is given instead of JSON.
    """
    return field(default=default, metadata={"meaning": meaning, "allowed": allowed, "test": test, "option": option})


def choice(meaning: str, *choices: str, default: Any = MISSING, option: str = "") -> Any:
    """Declare a field that is one of several words."""
    return argument(meaning, ", ".join(choices), choices.__contains__, default, option)


def parsed(
    kind: type, text: str | None, option: str = "--scheme-args", own: Mapping[str, Any] = MappingProxyType({})
) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of a dataclass from JSON, by name, and one message for each problem.

    Args:
        text: None stands for no arguments.
        own: the values of the options of their own that were given, by option.
    """
    try:
        given = json.loads(text or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        return {}, [f"{option} is {text}; allowed: an object in JSON, as in '{{\"keep_prob\": 0.5}}'"]
    declared = {one.name: one for one in fields(kind)}
    types = get_type_hints(kind)
    in_json = [name for name, one in declared.items() if not one.metadata["option"]]
    problems = [f"{option} has {name}; allowed: {', '.join(in_json)}" for name in given if name not in in_json]
    for name, one in declared.items():
        its_own = one.metadata["option"]
        if its_own in own:
            given[name] = own[its_own]
        if name not in given and one.default is MISSING:
            missing = f"{its_own} is not given" if its_own else f"{option} has no {name}"
            problems.append(f"{missing}; it must be {_range(one, types[name])}")
        elif name in given and not _is_allowed(given[name], one, types[name]):
            value = f"{its_own} is {given[name]}" if its_own else f"{option} has {name} {given[name]!r}"
            problems.append(f"{value}; allowed: {_range(one, types[name])}")
    return given, problems


def described(kinds: Mapping[Any, type]) -> str:
    """Return the arguments of all schemes in a sentence each, for the help."""
    return "; ".join(f"{name}: {', '.join(map(_described, fields(kind)))}" for name, kind in kinds.items())


def _described(one: Field) -> str:
    default = "required" if one.default is MISSING else f"default {json.dumps(one.default)}"
    name = one.metadata["option"] or one.name
    return f"{name} ({', '.join(filter(None, (one.metadata['meaning'], one.metadata['allowed'], default)))})"


def _is_allowed(value: Any, one: Field, kind: type) -> bool:
    types = (int, float) if kind is float else (kind,)
    return type(value) in types and one.metadata["test"](value)


def _range(one: Field, kind: type) -> str:
    return one.metadata["allowed"] or _KINDS[kind]

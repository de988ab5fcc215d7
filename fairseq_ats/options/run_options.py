"""Remember the options that make a run what it is. A resumed run takes what it is not given from its checkpoint.

fairseq saves the options of one start of the process. The task's state has what they came to, over all starts: a run
that was resumed without ``--alternate`` still alternates, and does so when it is resumed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq_ats.checkpoints.keys import RUN_KEY
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.values import Options, plain
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.partial_sgd import Scheme
from fairseq_ats.schemes.pattern import as_text, parsed_patterns
from fairseq_ats.schemes.schedule import Schedule, SchemeName

# The value of an option that neither the command line nor the checkpoint gives; the others are None.
_DEFAULTS = {
    "super_only_updates": 0,
    "distillation_weight": 0.0,
    "distillation_temperature": 1.0,
    "distillation_from": 0,
}

# Options of a scheme. A run that goes on with another scheme takes none of them from its checkpoint.
_OF_A_SCHEME = (
    "alternate_pattern",
    "super_only_updates",
    "core_only_from",
    "distillation_weight",
    "distillation_temperature",
    "distillation_from",
    "core_dropout",
    "scheme_args",
    "parts",
    "local_updates",
    "shared_parameters",
    "step_scale",
)

# Options of a run whatever its scheme.
_OF_ANY_SCHEME = ("freeze",)

# Options of the translation task alone.
_OF_TRANSLATION = ("core_data",)


def settle_(cfg: PartitionedConfig) -> None:
    """Give the options their defaults, in place, where they have no value."""
    for name, value in _DEFAULTS.items():
        if getattr(cfg, name) is None:
            setattr(cfg, name, value)


def recall_(cfg: PartitionedConfig, task_state: Mapping[str, Any]) -> list[str]:
    """Fill in the options that were not given, in place, as the run had them.

    Args:
        task_state: the task's state in the run's checkpoint.

    Returns:
        A phrase for each option that was given and differs from the run's.

    Raises:
        ValueError: what the checkpoint remembers cannot be read.
    """
    saved = task_state.get(RUN_KEY) or {}
    if not isinstance(saved, Mapping):
        raise ValueError(f"the checkpoint's options of the run are a {type(saved).__name__}")
    given_scheme, scheme = _given_scheme(cfg), saved.get("scheme")
    names, differing = _names(cfg), []
    if given_scheme is None:
        cfg.scheme = scheme
    elif scheme not in (None, given_scheme):
        differing.append(f"--scheme {scheme}, and --scheme is {given_scheme} now")
        names = _OF_ANY_SCHEME
    for name in filter(saved.__contains__, names):
        given, had = getattr(cfg, name), saved[name]
        if given is None:
            # Without distillation, as it may be given now, there is no temperature, and no update at which it begins.
            if name not in ("distillation_temperature", "distillation_from") or cfg.distillation_weight:
                setattr(cfg, name, had)
        elif _as_remembered(name, given) != had:
            option = "--" + name.replace("_", "-")
            differing.append(f"{f'without {option}' if had is None else f'{option} {had}'}, and it is {given} now")
    return differing


def to_remember(cfg: PartitionedConfig, scheme: Scheme) -> dict[str, Any]:
    """Return the options of a run as they came to be, in plain values; :func:`recall_` is the inverse."""
    name, pattern = Options(cfg).scheme.name, None
    if isinstance(scheme, Schedule):
        name = SchemeName.CORE if scheme.max_level == CORE_LEVEL else scheme.name
        pattern = scheme.pattern_text if scheme.takes_turns else None
    return {
        "scheme": str(name),
        **{option: plain(getattr(cfg, option)) for option in _names(cfg)},
        "alternate_pattern": pattern,
    }


def _as_remembered(name: str, given: Any) -> Any:
    """Return the value of an option as :func:`to_remember` writes it."""
    try:
        return as_text(parsed_patterns(given)) if name == "alternate_pattern" else plain(given)
    except ValueError:
        return given  # the check of the options tells what is wrong


def _names(cfg: PartitionedConfig) -> tuple[str, ...]:
    """Return the options that a run of this task keeps."""
    return (*_OF_A_SCHEME, *_OF_ANY_SCHEME, *(name for name in _OF_TRANSLATION if hasattr(cfg, name)))


def _given_scheme(cfg: PartitionedConfig) -> SchemeName | None:
    name = Options(cfg).scheme.name
    if cfg.max_level == CORE_LEVEL and name == SchemeName.STANDARD:
        return SchemeName.CORE
    return name if cfg.scheme is not None or cfg.alternate else None

"""Choose a scheme by its options, and say which of them do not go together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.arguments import parsed
from fairseq_ats.schemes.dropout import Dropout
from fairseq_ats.schemes.extragradient import Extragradient
from fairseq_ats.schemes.ist import Ist
from fairseq_ats.schemes.layerwise import Layerwise
from fairseq_ats.schemes.mast import Mast
from fairseq_ats.schemes.meprop import MeProp
from fairseq_ats.schemes.partial_sgd import Scheme, SchemeOfParts
from fairseq_ats.schemes.pattern import parsed_patterns
from fairseq_ats.schemes.prune import Prune
from fairseq_ats.schemes.schedule import SCHEMES_OF_SEVERAL_NETWORKS, Schedule, SchemeName

SCHEMES_OF_PARTS: dict[SchemeName, type[SchemeOfParts]] = {
    SchemeName.DROPOUT: Dropout,
    SchemeName.EXTRAGRADIENT: Extragradient,
    SchemeName.IST: Ist,
    SchemeName.LAYERWISE: Layerwise,
    SchemeName.MEPROP: MeProp,
    SchemeName.PRUNE: Prune,
    SchemeName.MAST: Mast,
}

# Values of --criteria-of, besides arguments of dropout in JSON.
_CRITERIA_OF = ("scheme", "core", "dropout")

# The value of --step-scale for what the monitor measures.
ALPHA = "alpha"


@dataclass(frozen=True)
class SchemeOptions:
    """The options of a scheme, as they were given.

    Args:
        scheme: ``--scheme``; None: not given.
        alternate: ``--alternate``, the paper's name of ``--scheme alternate``.
        pattern: ``--alternate-pattern``, such as 3:1 or 1:1@0,2:1@4000.
        super_only_updates: as in :class:`~fairseq_ats.schemes.schedule.Schedule`.
        core_only_from: likewise.
        arguments: ``--scheme-args``, in JSON.
        own_options: the values of the scheme's other options that were given, by option.
        step_scale: ``--step-scale``, a number or "alpha".
        freeze: ``--freeze``, a pattern; empty as None.
    """

    scheme: SchemeName | None = None
    alternate: bool = False
    pattern: str | None = None
    super_only_updates: int = 0
    core_only_from: int | None = None
    arguments: str | None = None
    own_options: Mapping[str, Any] = field(default_factory=dict)
    step_scale: str | None = None
    freeze: str | None = None

    @property
    def name(self) -> SchemeName:
        """The scheme that the options ask for."""
        if self.scheme is not None:
            return self.scheme
        return SchemeName.ALTERNATE if self.alternate else SchemeName.STANDARD

    @property
    def as_given(self) -> str:
        """How the scheme was asked for, for messages."""
        return f"--{SchemeName.ALTERNATE}" if self.alternate else f"--scheme {self.name}"

    @property
    def masks(self) -> bool:
        """Whether the scheme has updates that leave parameters as they are."""
        masked = self.name == SchemeName.ALTERNATE or self.of_parts
        return masked or self.core_only_from is not None or self.step_scale is not None

    @property
    def of_parts(self) -> bool:
        """Whether the scheme trains one network by its parts."""
        return self.name in SCHEMES_OF_PARTS

    @property
    def fixed_step_scale(self) -> float | None:
        """What masked or perturbed updates multiply the learning rate by; None: what the monitor measures.

        Raises:
            ValueError: it is not a number.
        """
        return None if self.step_scale == ALPHA else float(self.step_scale or 1.0)

    def scheme_of(self, max_level: int) -> Scheme:
        """Return the scheme for a model that holds the levels up to ``max_level``.

        Raises:
            ValueError: as :meth:`schedule`, or an argument is not allowed.
        """
        kind = SCHEMES_OF_PARTS.get(self.name)
        return (
            self.schedule(max_level)
            if kind is None
            else scheme_of_parts(kind, max_level, self.arguments, self.own_options)
        )

    def schedule(self, max_level: int) -> Schedule:
        """Return the scheme for a model that holds the levels up to ``max_level``.

        Raises:
            ValueError: as :class:`Schedule` and :func:`parsed_patterns`.
        """
        (_, pattern), *changes = [(0, ())] if self.pattern is None else parsed_patterns(self.pattern)
        return Schedule(self.name, max_level, pattern, self.super_only_updates, self.core_only_from, tuple(changes))

    def problems(self, max_level: int | None) -> list[str]:
        """Return one message for each option that does not go with the others.

        Args:
            max_level: ``--max-level``; None: not given.
        """
        return self._problems_with_level(max_level) + self._problems_of_phases() + self._problems_of_values()

    def lacks_networks(self, max_level: int | None) -> bool:
        """Return whether the scheme trains several networks and there is the core alone."""
        return self.name.trains_several and max_level == CORE_LEVEL

    def two_networks_needed(self, who_has: str) -> str:
        """Return the problem of a scheme that lacks networks.

        Args:
            who_has: as in "CHECKPOINT holds".
        """
        return f"{self.as_given} needs two networks and {who_has} the core alone"

    def needed_by(self, option: str) -> list[str]:
        """Return the problem of an option that needs several networks, if the scheme trains one.

        Args:
            option: what was given, as ``--option is VALUE``.
        """
        return self._needs(option, SCHEMES_OF_SEVERAL_NETWORKS)

    def _problems_with_level(self, max_level: int | None) -> list[str]:
        problems = []
        if self.alternate and self.name != SchemeName.ALTERNATE:
            problems.append(
                f"--alternate is --scheme {SchemeName.ALTERNATE}, and --scheme is {self.name}; leave one of them out"
            )
        if self.lacks_networks(max_level):
            problems.append(f"{self.two_networks_needed('--max-level 1 builds')}; leave one of them out")
        if self.name == SchemeName.CORE and max_level not in (None, CORE_LEVEL):
            problems.append(
                f"--scheme {self.name} builds the core alone and --max-level is {max_level}; leave one of them out"
            )
        return problems

    def _problems_of_phases(self) -> list[str]:
        problems = []
        if self.pattern is not None:
            problems += self._needs(f"--alternate-pattern is {self.pattern}", (SchemeName.ALTERNATE,))
            try:
                parsed_patterns(self.pattern)
            except ValueError as error:
                problems.append(str(error))
        if self.super_only_updates < 0:
            problems.append(f"--super-only-updates is {self.super_only_updates}; allowed: 0 or more")
        elif self.super_only_updates > 0:
            problems += self.needed_by(f"--super-only-updates is {self.super_only_updates}")
        if self.core_only_from is not None:
            problems += self.needed_by(f"--core-only-from is {self.core_only_from}")
            if self.core_only_from <= max(self.super_only_updates, 0):
                problems.append(
                    f"--core-only-from is {self.core_only_from}; allowed: more than --super-only-updates "
                    f"({self.super_only_updates}), so that both networks are trained between the two"
                )
        return problems

    def _problems_of_values(self) -> list[str]:
        problems = []
        kind = SCHEMES_OF_PARTS.get(self.name)
        if kind is not None:
            arguments, found = parsed(kind, self.arguments, own=self.own_options)
            problems += found or kind.problems(arguments)
        elif self.arguments is not None:
            problems += self._needs(f"--scheme-args is {self.arguments}", tuple(SCHEMES_OF_PARTS))
        for option, value in self.own_options.items():
            problems += self._needs(f"{option} is {value}", (SchemeName.IST,))
        try:
            allowed = 0 < (1.0 if self.fixed_step_scale is None else self.fixed_step_scale) < math.inf
        except ValueError:
            allowed = False
        if not allowed:
            problems.append(f"--step-scale is {self.step_scale}; allowed: a number above 0, or {ALPHA}")
        try:
            re.compile(self.freeze or "")
        except re.error as error:
            problems.append(f"--freeze is {self.freeze}; allowed: a regular expression ({error})")
        return problems

    def _needs(self, option: str, schemes: tuple[SchemeName, ...]) -> list[str]:
        if self.name in schemes:
            return []
        return [f"{option}, which needs --scheme {' or '.join(schemes)}; --scheme is {self.name}"]


def scheme_of_parts(
    kind: type[SchemeOfParts], max_level: int, arguments: str | None, own: Mapping[str, Any] = MappingProxyType({})
) -> SchemeOfParts:
    """Return the scheme of these arguments in JSON, and of the options of its own.

    Raises:
        ValueError: an argument is not allowed.
    """
    given, problems = parsed(kind, arguments, own=own)
    problems = problems or kind.problems(given)
    if problems:
        raise ValueError("; ".join(problems))
    scheme = kind(**given)
    scheme.max_level = max_level
    return scheme


def criteria_of_problems(criteria_of: str | None) -> list[str]:
    """Return one message for each problem of ``--criteria-of``; None: not given."""
    return [] if criteria_of in (None, *_CRITERIA_OF) else parsed(Dropout, criteria_of, "--criteria-of")[1]


def watched_scheme(criteria_of: str | None, scheme: Scheme) -> Scheme:
    """Return the scheme whose comparisons the monitor measures.

    Args:
        criteria_of: ``--criteria-of``, which has no problems; None: not given.
        scheme: the run's.
    """
    if criteria_of in (None, "scheme"):
        return scheme
    if criteria_of == "core":
        return Schedule(SchemeName.STANDARD, scheme.max_level)
    arguments = '{"keep_prob": 0.5}' if criteria_of == "dropout" else criteria_of
    return scheme_of_parts(Dropout, scheme.max_level, arguments)

"""Choose a scheme by its options, and say which of them do not go together."""

from __future__ import annotations

from dataclasses import dataclass

from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.schedule import SCHEMES_OF_SEVERAL_NETWORKS, Schedule, SchemeName


@dataclass(frozen=True)
class SchemeOptions:
    """The options of a scheme, as they were given.

    Args:
        scheme: ``--scheme``; None: not given.
        alternate: ``--alternate``, the paper's name of ``--scheme alternate``.
        pattern: ``--alternate-pattern``, such as 3:1.
        super_only_updates: as in :class:`~fairseq_ats.schemes.schedule.Schedule`.
        core_only_from: likewise.
    """

    scheme: SchemeName | None = None
    alternate: bool = False
    pattern: str | None = None
    super_only_updates: int = 0
    core_only_from: int | None = None

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
        return self.name == SchemeName.ALTERNATE or self.core_only_from is not None

    def schedule(self, max_level: int) -> Schedule:
        """Return the scheme for a model that holds the levels up to ``max_level``.

        Raises:
            ValueError: as :class:`Schedule` and :func:`parsed_pattern`.
        """
        pattern = () if self.pattern is None else parsed_pattern(self.pattern)
        return Schedule(self.name, max_level, pattern, self.super_only_updates, self.core_only_from)

    def problems(self, max_level: int | None) -> list[str]:
        """Return one message for each option that does not go with the others.

        Args:
            max_level: ``--max-level``; None: not given.
        """
        return self._problems_with_level(max_level) + self._problems_of_phases()

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
                parsed_pattern(self.pattern)
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

    def _needs(self, option: str, schemes: tuple[SchemeName, ...]) -> list[str]:
        if self.name in schemes:
            return []
        return [f"{option}, which needs --scheme {' or '.join(schemes)}; --scheme is {self.name}"]


def parsed_pattern(text: str) -> tuple[int, ...]:
    """Return the numbers of a pattern: ``3:1`` → (3, 1).

    Raises:
        ValueError: the text is not whole numbers above 0 with colons between them.
    """
    parts = str(text).split(":")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(
            f"--alternate-pattern is {text!r}; allowed: whole numbers above 0 with colons between them, as in 3:1"
        )
    return tuple(map(int, parts))

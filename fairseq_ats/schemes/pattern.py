"""Read and write ``--alternate-pattern``: how many updates in a row train each network, and from which update on.

``3:1`` holds in the whole training. ``1:1@0,2:1@4000`` changes: 2:1 begins at update 4,000. A pattern that changes is
not in the paper; those who train nested networks sample the larger ones more often late in training.
"""

from __future__ import annotations

from collections.abc import Sequence

# For each network, from the highest level down: how many updates in a row train it.
Turns = tuple[int, ...]

# The number of the update at which turns begin, and these turns.
Begun = tuple[int, Turns]


def parsed_patterns(text: str) -> tuple[Begun, ...]:
    """Return the turns and the updates at which they begin: ``1:1@0,2:1@4000`` → ((0, (1, 1)), (4000, (2, 1))).

    Raises:
        ValueError: the text is something else, or the updates do not rise from 0.
    """
    pieces = [piece.partition("@") for piece in str(text).split(",")]
    if len(pieces) == 1 and not pieces[0][1]:
        pieces = [(pieces[0][0], "@", "0")]
    starts = [int(start) if _is_number(start) else -1 for _, _, start in pieces]
    turns = [turns.split(":") for turns, _, _ in pieces]
    are_turns = all(_is_number(part) and int(part) > 0 for parts in turns for part in parts)
    if not are_turns or starts[0] != 0 or starts != sorted({*starts}):
        raise ValueError(
            f"--alternate-pattern is {text!r}; allowed: whole numbers above 0 with colons between them, as in 3:1; or "
            "several such patterns with the updates at which they begin, from 0 upwards, as in 1:1@0,2:1@4000"
        )
    return tuple((start, tuple(map(int, parts))) for start, parts in zip(starts, turns, strict=True))


def as_text(patterns: Sequence[Begun]) -> str:
    """Return what :func:`parsed_patterns` reads."""
    if len(patterns) == 1:
        return turns_text(patterns[0][1])
    return ",".join(f"{turns_text(turns)}@{start}" for start, turns in patterns)


def turns_text(turns: Turns) -> str:
    """Return turns as in 3:1."""
    return ":".join(map(str, turns))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()

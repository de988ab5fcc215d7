"""Save and restore the count of ``--patience``, which fairseq keeps in attributes of a function and never saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def patience_state() -> dict[str, Any]:
    """Return what ``--patience`` has counted so far."""
    return dict(vars(_should_stop_early()))


def restore_patience(state: Mapping[str, Any]) -> None:
    """Undo :func:`patience_state`."""
    vars(_should_stop_early()).update(state)


def _should_stop_early() -> Any:
    # Imported late: importing fairseq's training command sets up logging to standard output.
    from fairseq_cli.train import should_stop_early

    return should_stop_early

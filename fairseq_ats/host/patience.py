"""Save and restore the count of ``--patience``. fairseq keeps it in attributes of a function and never saves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def patience_state() -> dict[str, Any]:
    """Return the state of ``--patience``: the attributes of fairseq's ``should_stop_early``."""
    return dict(vars(_should_stop_early()))


def restore_patience(state: Mapping[str, Any]) -> None:
    """Restore a state that :func:`patience_state` returned."""
    vars(_should_stop_early()).update(state)


def _should_stop_early() -> Any:
    # Import late, because the import of fairseq's training command sets up logging to standard output.
    from fairseq_cli.train import should_stop_early

    return should_stop_early

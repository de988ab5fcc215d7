"""A command that prints its own lines only."""

from __future__ import annotations

import logging


def silence_libraries(level: int = logging.WARNING) -> None:
    """Log nothing below ``level``.

    fairseq makes the root logger print everything (fairseq/tasks/text_to_speech.py:23), also of libraries that have
    nothing to do with it. matplotlib logs while it is imported: import it afterwards.
    """
    for name in ("fairseq", "fairseq_ats", "hydra", "matplotlib", "PIL", "sacrebleu"):
        logging.getLogger(name).setLevel(level)

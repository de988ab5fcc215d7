"""A command that prints its own lines only."""

from __future__ import annotations

import logging
import warnings


def silence_libraries(level: int = logging.WARNING) -> None:
    """Log nothing below ``level``, and no warnings of this stack.

    fairseq makes the root logger print everything (fairseq/tasks/text_to_speech.py:23), also of libraries that have
    nothing to do with it. matplotlib logs while it is imported: import it afterwards.
    """
    warnings.filterwarnings("ignore")  # fairseq's and hydra's, on this stack
    for name in ("fairseq", "fairseq_ats", "hydra", "matplotlib", "PIL", "sacrebleu"):
        logging.getLogger(name).setLevel(level)

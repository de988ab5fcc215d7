"""Keep one handler for ``--log-file``.

In each epoch fairseq adds a handler for the file to the logger of its progress bar, and removes none
(fairseq/logging/progress_bar.py:45). Each handler holds the file open and writes every line, so epoch N would write its
lines N times.
"""

from __future__ import annotations

import logging

from fairseq.logging import progress_bar


def close_earlier_handlers() -> None:
    """Close the handlers for files that fairseq's progress bar added, except the newest.

    Call this when an epoch begins, which is after fairseq adds a handler (fairseq_cli/train.py:282 and :321).
    """
    handlers = [one for one in progress_bar.logger.handlers if isinstance(one, logging.FileHandler)]
    for handler in handlers[:-1]:
        progress_bar.logger.removeHandler(handler)
        handler.close()

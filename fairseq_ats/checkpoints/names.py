"""Name a run's checkpoints in its folder as fairseq does (fairseq/checkpoint_utils.py:69).

Each name has the value of ``--checkpoint-suffix`` before ``.pt``, so that several runs can share a folder.
"""

from __future__ import annotations

import re


def last_checkpoint(suffix: str = "") -> str:
    """Name the checkpoint that each save overwrites."""
    return f"checkpoint_last{suffix}.pt"


def best_checkpoint(suffix: str = "", network: str | None = None) -> str:
    """Name fairseq's best checkpoint, or with ``network`` the best checkpoint of that other network."""
    return f"checkpoint_best{'' if network is None else f'_{network}'}{suffix}.pt"


def of_epochs(suffix: str = "") -> re.Pattern[str]:
    """Return a pattern for checkpoints at the end of an epoch; its group is the epoch."""
    return re.compile(rf"checkpoint(\d+){re.escape(suffix)}\.pt")


def of_updates(suffix: str = "") -> re.Pattern[str]:
    """Return a pattern for checkpoints within an epoch; its group is the number of updates."""
    return re.compile(rf"checkpoint_\d+_(\d+){re.escape(suffix)}\.pt")


def with_suffix(path: str, suffix: str) -> str:
    """Return the file that fairseq reads for the value of ``--restore-file`` (fairseq/checkpoint_utils.py:258)."""
    return path.replace(".pt", suffix + ".pt")

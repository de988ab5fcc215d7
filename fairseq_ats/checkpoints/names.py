"""The names of a run's checkpoints in its folder, as fairseq gives them (fairseq/checkpoint_utils.py:69).

``--checkpoint-suffix`` stands before ``.pt`` in each of them, so that several runs can share a folder.
"""

from __future__ import annotations

import re


def last_checkpoint(suffix: str = "") -> str:
    """Name the one that each save overwrites."""
    return f"checkpoint_last{suffix}.pt"


def best_checkpoint(suffix: str = "", network: str | None = None) -> str:
    """Name fairseq's best checkpoint, or the best one of another network."""
    return f"checkpoint_best{'' if network is None else f'_{network}'}{suffix}.pt"


def of_epochs(suffix: str = "") -> re.Pattern[str]:
    """Match the checkpoints of ends of epochs; the group is the epoch."""
    return re.compile(rf"checkpoint(\d+){re.escape(suffix)}\.pt")


def of_updates(suffix: str = "") -> re.Pattern[str]:
    """Match the checkpoints within epochs; the group is the number of updates."""
    return re.compile(rf"checkpoint_\d+_(\d+){re.escape(suffix)}\.pt")


def with_suffix(path: str, suffix: str) -> str:
    """Turn what ``--restore-file`` says into the file that is read (fairseq/checkpoint_utils.py:258)."""
    return path.replace(".pt", suffix + ".pt")

"""Look up options of fairseq's other groups, where the task's options are part of the whole configuration."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

# Some of those that have types, by group.
_NEWER = {"optimizer": "adam, nag, sgd_for_partitioned_model", "lr_scheduler": "inverse_sqrt, fixed, cosine"}


def group_of(cfg: Any, group: str) -> Any:
    """Return a group of fairseq's options; None if the task was made without it."""
    whole = cfg._get_parent() if isinstance(cfg, DictConfig) else None
    return None if whole is None else OmegaConf.select(cast(DictConfig, whole), group)


def option_of(cfg: Any, group: str, name: str) -> Any:
    """Return an option of another group; None if the task was made without it.

    Raises:
        ValueError: the group is one of fairseq's parts without a dataclass.
    """
    options = group_of(cfg, group)
    if isinstance(options, Namespace):  # of all of the command line (fairseq/dataclass/utils.py:429)
        raise ValueError(
            f"--{group.replace('_', '-')} is {options._name}, an old one of fairseq, whose options have no types; "
            f"allowed: newer ones, such as {_NEWER.get(group, 'its other ones')}"
        )
    return None if options is None else OmegaConf.select(options, name)

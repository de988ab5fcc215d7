"""Look up options of fairseq's other groups, where the task's options are part of the whole configuration."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf


def group_of(cfg: Any, group: str) -> Any:
    """Return a group of fairseq's options; None if the task was made without it."""
    whole = cfg._get_parent() if isinstance(cfg, DictConfig) else None
    return None if whole is None else OmegaConf.select(cast(DictConfig, whole), group)


def option_of(cfg: Any, group: str, name: str) -> Any:
    """Return an option of another group; None if the task was made without it."""
    options = group_of(cfg, group)
    return None if options is None else OmegaConf.select(options, name)

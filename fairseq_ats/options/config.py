"""Turn the task's options into typed values."""

from __future__ import annotations

from typing import Any

from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName


def scheme_options(cfg: Any) -> SchemeOptions:
    """Return the options of the scheme."""
    return SchemeOptions(
        scheme=None if cfg.scheme is None else SchemeName(str(cfg.scheme)),
        alternate=cfg.alternate,
        pattern=cfg.alternate_pattern,
        super_only_updates=cfg.super_only_updates,
        core_only_from=cfg.core_only_from,
    )

"""Check what ``--scheme mast`` needs of fairseq's options."""

from __future__ import annotations

from typing import cast

from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.values import Options
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.schemes.mast import Mast
from fairseq_ats.schemes.schedule import SchemeName


def mast_problems(cfg: PartitionedConfig, options: Options) -> list[str]:
    """Return one message for each option with which the estimates of MAST would be biased."""
    if options.scheme.name != SchemeName.MAST or options.scheme.problems(None):
        return []
    scheme, host = cast(Mast, options.scheme.scheme_of(CORE_LEVEL)), options.host
    problems = []
    if scheme.adds_gradients and host.clip_norm > 0:
        problems.append(
            f"--clip-norm is {host.clip_norm} and --scheme-args has variance_reduction {scheme.variance_reduction}, "
            "which adds gradients that would be clipped one by one; allowed: 0"
        )
    frequencies = {count * host.distributed_world_size for count in option_of(cfg, "optimization", "update_freq") or []}
    if scheme.sketch == "permutation" and frequencies - {scheme.batches}:
        problems.append(
            f"--scheme-args has batches {scheme.batches}; allowed: {' or '.join(map(str, sorted(frequencies)))}, "
            "--update-freq times the number of workers"
        )
    return problems

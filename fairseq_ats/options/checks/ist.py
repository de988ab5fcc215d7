"""Check that independent subnets fit the workers, and that nobody looks at a worker's part for the whole."""

from __future__ import annotations

from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.values import Options
from fairseq_ats.schemes.ist import Ist
from fairseq_ats.schemes.schedule import SchemeName


def ist_problems(cfg: PartitionedConfig, options: Options) -> list[str]:
    """Return one message for each option with which ``--scheme ist`` cannot be trained."""
    if options.scheme.name != SchemeName.IST or options.host.optimizer_name is None:
        return []
    workers, frequencies = options.host.distributed_world_size, option_of(cfg, "optimization", "update_freq") or [1]
    batches = workers * frequencies[0]
    problems = []
    if len(frequencies) > 1:
        given = ",".join(map(str, frequencies))
        problems.append(f"--update-freq is {given}; allowed with --scheme ist: one number")
    elif cfg.parts is not None and cfg.parts >= 2 and cfg.parts != batches:
        problems.append(
            f"--parts is {cfg.parts}, and an update has {batches} micro-batch(es), --update-freq ({frequencies[0]}) "
            f"times the number of workers ({workers}); allowed: as many parts as micro-batches"
        )
    if options.scheme.own_options.get("--shared-parameters") == "local" and frequencies != [1]:
        problems.append(
            "--shared-parameters is local, where each part has a worker of its own; allowed: as many workers as "
            "--parts, and --update-freq 1"
        )
    return problems + (_problems_of_several(cfg, options) if workers > 1 else [])


def _problems_of_several(cfg: PartitionedConfig, options: Options) -> list[str]:
    problems = []
    if option_of(cfg, "checkpoint", "no_save_optimizer_state"):
        problems.append(
            "--no-save-optimizer-state keeps workers from exchanging their parts before a save "
            "(fairseq/trainer.py:390); with --scheme ist leave it out"
        )
    if option_of(cfg, "ema", "store_ema"):
        problems.append(
            "--store-ema reads the whole model after each update, and a worker has its part; with --scheme ist leave "
            "it out"
        )
    length = cfg.local_updates or Ist.local_updates
    if options.criteria.interval > 0 and options.criteria.interval % length != 0:
        problems.append(
            f"--criteria-interval is {options.criteria.interval}, and a worker has the whole x at the start of a "
            f"round; allowed with --scheme ist and several workers: multiples of --local-updates ({length})"
        )
    return problems

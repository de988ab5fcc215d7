"""Check what a command starts from: checkpoints, and the metric by which the best one is chosen."""

from __future__ import annotations

import os

from fairseq.checkpoint_utils import get_maybe_sharded_checkpoint_filename
from fairseq.utils import split_paths

from fairseq_ats.checkpoints.reading import read_checked
from fairseq_ats.options.config import InitOrder, PartitionedConfig, SuperStart
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.values import Options
from fairseq_ats.partition.names import DISTILLATION, GRADIENT_NORM, is_criterion
from fairseq_ats.partition.shares import RANK


def files_to_decode_problems(cfg: PartitionedConfig) -> list[str]:
    """Return one message for each checkpoint of ``--path`` that cannot be read.

    The loader would say "[Errno 22] Invalid argument" of a truncated checkpoint, and nothing of a flipped bit.
    """
    given = cfg.path_to_decode
    if given is None:
        # fairseq-validate builds the task from the checkpoint's options and overrides only the other groups
        # (fairseq/checkpoint_utils.py:359), so this view still has the value from training.
        given = option_of(cfg, "common_eval", "path")
    problems = []
    for path in _files_to_decode(cfg, split_paths(given) if given else []):
        try:
            read_checked(path)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _files_to_decode(cfg: PartitionedConfig, paths: list[str]) -> list[str]:
    """Return the files that fairseq makes of ``--path``, if they exist."""
    suffix = option_of(cfg, "checkpoint", "checkpoint_suffix") or ""
    shards = option_of(cfg, "checkpoint", "checkpoint_shard_count") or 1
    files = []
    for path in paths:
        named = [get_maybe_sharded_checkpoint_filename(path, suffix, shard, shards) for shard in range(shards)]
        # fairseq-validate: the suffix may be that of the training, and not given.
        files += list(filter(os.path.isfile, named)) or list(filter(os.path.isfile, [path]))
    return files


def start_problems(options: Options) -> list[str]:
    """Return one message for each option about the start of a new run that does not go with the others."""
    return _warm_start_problems(options) + _super_start_problems(options)


def _warm_start_problems(options: Options) -> list[str]:
    start, checkpoints = options.start, options.checkpoints
    if start.init_from is None:
        if start.init_order == InitOrder.UNCHANGED:
            return []
        return [f"--init-order is {start.init_order}, which needs --init-from"]
    others = {
        "--finetune-from-model": checkpoints.finetune_from_model,
        "--continue-once": checkpoints.continue_once,
        "--restore-file": checkpoints.restore_file if checkpoints.restores_another else None,
    }
    return [
        f"--init-from is {start.init_from} and {option} is {value}: a new run begins from one of them; leave one out"
        for option, value in others.items()
        if value is not None
    ]


def _super_start_problems(options: Options) -> list[str]:
    start = options.start
    if start.init_super is None:
        return []
    problems = []
    given = options.valid_partition
    if given is not None and not given.splits_by(RANK):
        of_paper = given.module_name and f"--partitioned-linear-module-name is {given.module_name}; allowed: {RANK}"
        problems.append(f"--init-super is {start.init_super} and {of_paper or 'no layer is of low rank; leave it out'}")
    if start.init_from is not None and start.init_super != SuperStart.STOCK:
        problems.append(
            f"--init-super {start.init_super} and --init-from exclude each other: --init-from sets the super-network's "
            "weights"
        )
    return problems


def metric_problems(best_checkpoint_metric: str | None) -> list[str]:
    """Return the problem of a metric that no validation computes.

    fairseq looks the metric up after the first validation and before the first save (fairseq_cli/train.py:534). Whether
    the run has the metric's network is known with its partition (fairseq_ats/training/best_checkpoints.py).
    """
    metric = best_checkpoint_metric or ""
    if is_criterion(metric) or metric.rpartition("_")[2] in (DISTILLATION, GRADIENT_NORM):
        return [
            f"--best-checkpoint-metric is {metric}; allowed: a metric that validation computes, such as loss, "
            "core_loss, bleu"
        ]
    return []

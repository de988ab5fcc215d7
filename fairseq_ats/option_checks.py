"""Checks of option combinations, at start and all at once."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.utils import split_paths
from omegaconf import DictConfig, OmegaConf

from fairseq_ats.checkpoints import check_sums, read_header
from fairseq_ats.metrics import core_name
from fairseq_ats.optim import OPTIMIZER_NAME, adam_problems
from fairseq_ats.partition import CORE_LEVEL, Partition

# fairseq's default of --restore-file: a name in --save-dir.
LAST_CHECKPOINT = "checkpoint_last.pt"

if TYPE_CHECKING:
    from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig


def partition_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each option or file that cannot be, in training as in decoding."""
    problems = Partition.problems(cfg.partitioned_linear_module_name, cfg.small_ratio, cfg.max_level)
    return problems + _data_problems(cfg) + _file_problems(cfg)


def training_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each combination of options that cannot be trained with."""
    problems = _alternation_problems(cfg) if cfg.alternate else []
    problems += _precision_problems(cfg) + _metric_problems(cfg) + _warm_start_problems(cfg)
    return problems + _range_problems(cfg)


def _data_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    folder = Path(split_paths(cfg.data)[0])
    if any(folder.glob("dict.*.txt")):
        return []
    return [f"{folder} is not a folder of binarised data: it has no dict.LANGUAGE.txt (see fairseq-preprocess)"]


def _file_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    # Of a checkpoint that was cut off the loader would say "[Errno 22] Invalid argument", and nothing of a flipped bit.
    given = cfg.path_to_decode
    if given is None:
        # fairseq-validate makes the task of the checkpoint's options, of which it has overridden those of other groups
        # by the command line's (fairseq/checkpoint_utils.py:359); a view was resolved when they were saved.
        given = _option_of(cfg, "common_eval", "path")
    problems = []
    for path in filter(os.path.isfile, split_paths(given) if given else []):
        try:
            check_sums(path)
            read_header(path)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _alternation_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    problems = []
    if cfg.max_level == CORE_LEVEL:
        problems.append("--alternate needs two networks and --max-level 1 builds the core alone; leave one of them out")
    # None while decoding, where fairseq has no optimizer.
    if cfg.optimizer_name not in (None, OPTIMIZER_NAME):
        problems.append(
            f"--optimizer is {cfg.optimizer_name}; --alternate needs {OPTIMIZER_NAME}, since other optimizers move "
            "masked parameters by momentum and weight decay"
        )
    if cfg.use_bmuf:
        problems.append("--use-bmuf averages all parameters, masked ones too; with --alternate leave it out")
    if str(cfg.zero_sharding) != "none":
        problems.append(f"--zero-sharding is {cfg.zero_sharding}, which hides the optimizer; with --alternate: none")
    if cfg.distributed_world_size > 1:
        problems += _data_parallel_problems(cfg)
    return problems


def _data_parallel_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    backend = str(cfg.ddp_backend)
    if backend in ("legacy_ddp", "no_c10d"):
        return []
    if backend not in ("c10d", "pytorch_ddp"):
        return [
            f"--ddp-backend is {backend}, under which parameters cannot be masked; with --alternate use legacy_ddp, or "
            "pytorch_ddp with --find-unused-parameters"
        ]
    if cfg.find_unused_parameters:
        return []
    return [
        f"--ddp-backend is {backend}, which would apply gradients of core updates without synchronising them; with "
        "--alternate add --find-unused-parameters, or use --ddp-backend legacy_ddp"
    ]


def _precision_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    if cfg.autocast is None:
        return []
    return [
        f"--autocast is {cfg.autocast} and --{name} is another way to lower precision; leave one of them out"
        for name in ("fp16", "bf16", "amp")
        if getattr(cfg, name)
    ]


def _metric_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    # fairseq looks the metric up after the first validation and before the first save (fairseq_cli/train.py:534).
    metric = cfg.best_checkpoint_metric or ""
    problems = []
    if metric in ("bleu", core_name("bleu")) and not cfg.eval_bleu:
        problems.append(f"--best-checkpoint-metric is {metric}, which needs --eval-bleu")
    if metric.startswith(core_name("")) and cfg.max_level == CORE_LEVEL:
        problems.append(
            f"--best-checkpoint-metric is {metric}; with --max-level 1 the core is the only network and reports as "
            f"{metric.removeprefix(core_name(''))}"
        )
    return problems


def _warm_start_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    if cfg.init_from is None:
        if str(cfg.init_order) == "unchanged":
            return []
        return [f"--init-order is {cfg.init_order}, which needs --init-from"]
    restore_file = None if cfg.restore_file == LAST_CHECKPOINT else cfg.restore_file
    others = {
        "--finetune-from-model": cfg.finetune_from_model,
        "--continue-once": cfg.continue_once,
        "--restore-file": restore_file,
    }
    return [
        f"--init-from is {cfg.init_from} and {option} is {value}: a new run begins from one of them; leave one out"
        for option, value in others.items()
        if value is not None
    ]


def _option_of(cfg: PartitionedTranslationConfig, group: str, name: str) -> Any:
    """An option of another group of fairseq's configuration; None if the task was made without the others."""
    whole = cfg._get_parent() if isinstance(cfg, DictConfig) else None
    return None if whole is None else OmegaConf.select(whole, f"{group}.{name}")


def _range_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """Numbers on which fairseq would stop in the first update, or train nothing, or with something else."""
    problems = []
    if _option_of(cfg, "optimizer", "_name") == OPTIMIZER_NAME:
        problems += adam_problems(cfg._get_parent().optimizer)
    for group, name in (("dataset", "max_tokens"), ("dataset", "batch_size")):
        value = _option_of(cfg, group, name)
        if value is not None and value < 1:
            problems.append(f"--{name.replace('_', '-')} is {value}; allowed: 1 or more")
    for value in _option_of(cfg, "optimization", "update_freq") or []:
        if value < 1:
            problems.append(f"--update-freq is {value}; allowed: 1 or more")
    for value in _option_of(cfg, "optimization", "lr") or []:
        if not 0 <= value < math.inf:
            problems.append(f"--lr is {value}; allowed: 0 or more")
    return problems

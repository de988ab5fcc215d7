"""Checks of option combinations, at start and all at once."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from fairseq.utils import split_paths

from fairseq_ats.launch_checks import independent_trainings_problem
from fairseq_ats.metrics import core_name
from fairseq_ats.optim import OPTIMIZER_NAME
from fairseq_ats.partition import CORE_LEVEL, Partition

# fairseq's default of --restore-file: a name in --save-dir.
LAST_CHECKPOINT = "checkpoint_last.pt"

# Names of the two data-parallel backends that a mask can be held under.
LEGACY_DDP = ("legacy_ddp", "no_c10d")
_PYTORCH_DDP = ("pytorch_ddp", "c10d")

if TYPE_CHECKING:
    from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig


def partition_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each option or file that cannot be, in training as in decoding."""
    problems = Partition.problems(cfg.partitioned_linear_module_name, cfg.small_ratio, cfg.max_level)
    return problems + _data_problems(cfg) + _file_problems(cfg)


def training_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each combination of options that cannot be trained with."""
    problems = _alternation_problems(cfg) if cfg.alternate else []
    # None while decoding, where fairseq has no optimizer; networks are decoded in any precision.
    if cfg.optimizer_name is not None:
        problems += _worker_problems(cfg) + _precision_problems(cfg) + _saving_problems(cfg)
    return problems + _metric_problems(cfg) + _warm_start_problems(cfg)


def _data_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    folder = Path(split_paths(cfg.data)[0])
    if any(folder.glob("dict.*.txt")):
        return []
    return [f"{folder} is not a folder of binarised data: it has no dict.LANGUAGE.txt (see fairseq-preprocess)"]


def _file_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    # The loader would say "[Errno 22] Invalid argument" of a checkpoint that was cut off.
    paths = split_paths(cfg.path_to_decode) if cfg.path_to_decode else []
    return [
        f"{path} ({os.path.getsize(path):,} bytes) is truncated or damaged: not a whole checkpoint"
        for path in paths
        if os.path.isfile(path) and not zipfile.is_zipfile(path)
    ]


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
    # fairseq shards parameters with this one even in one worker.
    if cfg.distributed_world_size > 1 or str(cfg.ddp_backend) == "fully_sharded":
        problems += _data_parallel_problems(cfg)
    return problems


def _data_parallel_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    backend = str(cfg.ddp_backend)
    if backend in LEGACY_DDP:
        return []
    if backend not in _PYTORCH_DDP:
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


def _worker_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    independent = independent_trainings_problem(cfg.distributed_world_size, os.environ)
    problems = [] if independent is None else [independent]
    if cfg.distributed_world_size > 1 and str(cfg.ddp_backend) in _PYTORCH_DDP and trains_on_cpu(cfg):
        # It asks PyTorch for CUDA device 0 (fairseq/models/distributed_fairseq_model.py:62).
        problems.append(f"--ddp-backend is {cfg.ddp_backend}, which fairseq has for GPUs only; on a CPU: legacy_ddp")
    return problems


def trains_on_cpu(cfg: PartitionedTranslationConfig) -> bool:
    """As fairseq's trainer decides (fairseq/trainer.py:60)."""
    return cfg.cpu or not torch.cuda.is_available()


def _precision_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    lower = [f"--{name}" for name in ("fp16", "bf16", "amp") if getattr(cfg, name)]
    problems = []
    if cfg.tpu:
        # Also --memory-efficient-bf16.
        problems.append(
            "--bf16 on the command line means a TPU to fairseq (fairseq/options.py:201), which is not supported; use "
            "--autocast bfloat16, or common.bf16=true of fairseq-hydra-train"
        )
    problems += [
        f"common.memory_efficient_{name} is true and common.{name} is not, so that fairseq would train in float32; "
        "set both"
        for name in ("fp16", "bf16")
        if getattr(cfg, f"memory_efficient_{name}") and not getattr(cfg, name)
    ]
    if cfg.autocast is not None:
        problems += [
            f"--autocast is {cfg.autocast} and {name} is another way to lower precision; leave one of them out"
            for name in lower
        ]
    elif len(lower) > 1:
        problems.append(f"{' and '.join(lower)} are different ways to lower precision; leave all but one out")
    flattens = cfg.fp16 and not (cfg.memory_efficient_fp16 or cfg.fp16_no_flatten_grads)
    if flattens and cfg.optimizer_name == OPTIMIZER_NAME:
        problems.append(
            f"--fp16 puts all parameters into one tensor, of which {OPTIMIZER_NAME} can mask no part; add "
            "--fp16-no-flatten-grads, or use --memory-efficient-fp16 or --amp"
        )
    if trains_on_cpu(cfg):
        # fairseq/trainer.py:1023 moves a number to CUDA when gradients overflow; on a CPU PyTorch switches off the
        # autocast and the loss scaling that fairseq uses, and not-a-number gradients are applied.
        problems += [
            f"{name} needs a GPU: on a CPU fairseq {effect}; use --autocast bfloat16, or common.bf16=true of "
            "fairseq-hydra-train"
            for name, effect in (
                ("--fp16", "fails when gradients overflow"),
                ("--amp", "computes in float32 and applies gradients that overflow"),
            )
            if name in lower
        ]
    return problems


def _saving_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    if not cfg.write_checkpoints_asynchronously:
        return []
    return [
        "--write-checkpoints-asynchronously writes checkpoints in place, so that a killed training leaves half of one; "
        "leave it out"
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

"""Checks of option combinations, at start and all at once."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fairseq.utils import split_paths
from omegaconf import DictConfig, OmegaConf

from fairseq_ats.checkpoints import check_sums, read_header
from fairseq_ats.criteria_monitor import is_criterion
from fairseq_ats.data_checks import buckets_problem
from fairseq_ats.distillation import METRIC as DISTILLATION
from fairseq_ats.launch_checks import independent_trainings_problem
from fairseq_ats.metrics import split_metric
from fairseq_ats.optim import OPTIMIZER_NAME, adam_problems
from fairseq_ats.partition import CORE_LEVEL, Partition, parse_small_ratio
from fairseq_ats.schemes import (
    ALTERNATE,
    CORE_ALONE,
    SCHEMES_OF_SEVERAL_NETWORKS,
    SLIMMABLE,
    name_of_scheme,
    parsed_pattern,
    scheme_of,
)
from fairseq_ats.super_start import STOCK

# fairseq's default of --restore-file: a name in --save-dir.
LAST_CHECKPOINT = "checkpoint_last.pt"

# Beyond these z / T is a one-hot or a uniform distribution in float32, and T² leaves its range.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0

# Names of the two data-parallel backends that a mask can be held under.
LEGACY_DDP = ("legacy_ddp", "no_c10d")
_PYTORCH_DDP = ("pytorch_ddp", "c10d")

if TYPE_CHECKING:
    from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig


def partition_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each option or file that cannot be, in training as in decoding."""
    problems = []
    small_ratio = None
    try:
        small_ratio = parse_small_ratio(cfg.small_ratio)
    except ValueError as error:
        problems.append(str(error))
    problems += Partition.problems(cfg.partitioned_linear_module_name, small_ratio, cfg.max_level)
    return problems + _data_problems(cfg) + _file_problems(cfg)


def training_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """One sentence for each combination of options that cannot be trained with."""
    problems = _scheme_problems(cfg) + _schedule_problems(cfg) + _distillation_problems(cfg) + _mask_problems(cfg)
    # None while decoding, where fairseq has no optimizer; networks are decoded in any precision.
    if cfg.optimizer_name is not None:
        problems += _worker_problems(cfg) + _precision_problems(cfg) + _saving_problems(cfg)
        problems += filter(None, [buckets_problem(cfg.num_batch_buckets)])
    problems += _metric_problems(cfg) + _warm_start_problems(cfg) + _super_start_problems(cfg)
    return problems + _criteria_problems(cfg) + _range_problems(cfg)


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


def _scheme_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    scheme = scheme_of(cfg)
    problems = []
    if cfg.alternate and scheme != ALTERNATE:
        problems.append(f"--alternate is --scheme {ALTERNATE}, and --scheme is {scheme}; leave one of them out")
    if scheme in SCHEMES_OF_SEVERAL_NETWORKS and cfg.max_level == CORE_LEVEL:
        problems.append(
            f"{name_of_scheme(cfg)} needs two networks and --max-level 1 builds the core alone; leave one of them out"
        )
    if scheme == CORE_ALONE and cfg.max_level not in (None, CORE_LEVEL):
        problems.append(
            f"--scheme {CORE_ALONE} builds the core alone and --max-level is {cfg.max_level}; leave one of them out"
        )
    return problems


def _schedule_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    problems = []
    if cfg.alternate_pattern is not None:
        problems += _needs_scheme(cfg, f"--alternate-pattern is {cfg.alternate_pattern}", (ALTERNATE,))
        try:
            parsed_pattern(cfg.alternate_pattern)
        except ValueError as error:
            problems.append(str(error))
    if cfg.super_only_updates < 0:
        problems.append(f"--super-only-updates is {cfg.super_only_updates}; allowed: 0 or more")
    elif cfg.super_only_updates > 0:
        problems += _needs_scheme(cfg, f"--super-only-updates is {cfg.super_only_updates}", SCHEMES_OF_SEVERAL_NETWORKS)
    if cfg.core_only_from is not None:
        problems += _needs_scheme(cfg, f"--core-only-from is {cfg.core_only_from}", SCHEMES_OF_SEVERAL_NETWORKS)
        if cfg.core_only_from <= max(cfg.super_only_updates, 0):
            problems.append(
                f"--core-only-from is {cfg.core_only_from}; allowed: more than --super-only-updates "
                f"({cfg.super_only_updates}), so that both networks are trained between the two"
            )
    return problems


def _distillation_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    weight, temperature = cfg.distillation_weight, cfg.distillation_temperature
    problems = []
    if not 0.0 <= weight <= 1.0:
        problems.append(f"--distillation-weight is {weight}; allowed: 0 to 1")
    if weight != 0.0:
        problems += _needs_scheme(cfg, f"--distillation-weight is {weight}", SCHEMES_OF_SEVERAL_NETWORKS)
        alpha = _option_of(cfg, "criterion", "rdrop_alpha")
        if alpha:
            problems.append(
                f"--distillation-weight is {weight} and --rdrop-alpha is {alpha}, which has every sentence twice in a "
                "pass; leave one of them out"
            )
    elif temperature != 1.0:
        problems.append(f"--distillation-temperature is {temperature}, which needs --distillation-weight above 0")
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        problems.append(
            f"--distillation-temperature is {temperature}; allowed: {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}"
        )
    return problems


def _needs_scheme(cfg: PartitionedTranslationConfig, given: str, schemes: tuple[str, ...]) -> list[str]:
    scheme = scheme_of(cfg)
    return [] if scheme in schemes else [f"{given}, which needs --scheme {' or '.join(schemes)}; --scheme is {scheme}"]


def _mask_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    """What keeps a parameter from being left alone, or an update from running several networks."""
    scheme = scheme_of(cfg)
    name = name_of_scheme(cfg)
    problems = []
    if scheme == ALTERNATE or cfg.core_only_from is not None:
        if scheme != ALTERNATE:
            name += " --core-only-from"
        problems += _optimizer_problems(cfg, name)
    if _has_workers(cfg) and scheme in SCHEMES_OF_SEVERAL_NETWORKS:
        problems += _data_parallel_problems(cfg, name)
    return problems


def _has_workers(cfg: PartitionedTranslationConfig) -> bool:
    """Whether a data-parallel backend is at work; fully_sharded shards parameters even in one worker."""
    return cfg.distributed_world_size > 1 or str(cfg.ddp_backend) == "fully_sharded"


def _optimizer_problems(cfg: PartitionedTranslationConfig, name: str) -> list[str]:
    problems = []
    # None while decoding, where fairseq has no optimizer.
    if cfg.optimizer_name not in (None, OPTIMIZER_NAME):
        problems.append(
            f"--optimizer is {cfg.optimizer_name}; {name} needs {OPTIMIZER_NAME}, since other optimizers move "
            "masked parameters by momentum and weight decay"
        )
    if cfg.use_bmuf:
        problems.append(f"--use-bmuf averages all parameters, masked ones too; with {name} leave it out")
    if str(cfg.zero_sharding) != "none":
        problems.append(f"--zero-sharding is {cfg.zero_sharding}, which hides the optimizer; with {name}: none")
    return problems


def _data_parallel_problems(cfg: PartitionedTranslationConfig, name: str) -> list[str]:
    backend = str(cfg.ddp_backend)
    if backend in LEGACY_DDP:
        return []
    if backend not in _PYTORCH_DDP:
        cannot = (
            "an update cannot run several networks" if scheme_of(cfg) == SLIMMABLE else "parameters cannot be masked"
        )
        return [
            f"--ddp-backend is {backend}, under which {cannot}; with {name} use legacy_ddp, or pytorch_ddp with "
            "--find-unused-parameters"
        ]
    if cfg.find_unused_parameters:
        return []
    return [
        f"--ddp-backend is {backend}, which would apply gradients of the core without synchronising them; with "
        f"{name} add --find-unused-parameters, or use --ddp-backend legacy_ddp"
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
    if is_criterion(metric) or metric.rpartition("_")[2] in (DISTILLATION, "gnorm"):
        return [f"--best-checkpoint-metric is {metric}, which no validation measures; loss, core_loss or bleu is one"]
    # Whether the run has the network is known with its partition (best_checkpoints.py).
    if split_metric(metric)[1] == "bleu" and not cfg.eval_bleu:
        return [f"--best-checkpoint-metric is {metric}, which needs --eval-bleu"]
    return []


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


def _super_start_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    if cfg.init_super is None:
        return []
    problems = []
    if str(cfg.partitioned_linear_module_name) == "PartitionedLinear":
        problems.append(
            f"--init-super is {cfg.init_super} and --partitioned-linear-module-name is PartitionedLinear; allowed: "
            "PartitionedRankLinear"
        )
    if cfg.init_from is not None and str(cfg.init_super) != STOCK:
        problems.append(
            f"--init-super is {cfg.init_super} and --init-from is {cfg.init_from}, as which the super-network starts; "
            "leave one of them out"
        )
    return problems


def _criteria_problems(cfg: PartitionedTranslationConfig) -> list[str]:
    interval = cfg.criteria_interval
    if interval < 0:
        return [f"--criteria-interval is {interval}; allowed: 0 (never) or more"]
    if interval == 0:
        options = {
            "--criteria-dropout": str(cfg.criteria_dropout) != "same",
            "--criteria-by-layer-type": cfg.criteria_by_layer_type,
        }
        return [f"{option} needs --criteria-interval" for option, is_given in options.items() if is_given]
    problems = []
    if cfg.max_level == CORE_LEVEL:
        problems.append(
            f"--criteria-interval is {interval}, which compares two networks, and --max-level 1 builds the core alone; "
            "leave one of them out"
        )
    # Workers with weights of their own have no common point x; under FSDP no worker has a whole gradient.
    if cfg.use_bmuf:
        problems.append(f"--criteria-interval is {interval}, which does not work with --use-bmuf")
    allowed = (*LEGACY_DDP, *_PYTORCH_DDP)
    if _has_workers(cfg) and str(cfg.ddp_backend) not in allowed:
        problems.append(
            f"--criteria-interval is {interval} and --ddp-backend is {cfg.ddp_backend}; allowed: {', '.join(allowed)}"
        )
    return problems


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

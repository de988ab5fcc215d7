"""Check fairseq's own options: optimizer, workers, precision, saving."""

from __future__ import annotations

import math
import os

import torch

from fairseq_ats.host.launch import independent_trainings_problem
from fairseq_ats.modules.fused_loss import CRITERION_NAME as FUSED_LOSS
from fairseq_ats.optim import MASKED_OPTIMIZERS
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.groups import group_of, option_of
from fairseq_ats.options.values import HostOptions, Options
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName

# Names of the two data-parallel backends that a mask can be held under.
LEGACY_DDP = ("legacy_ddp", "no_c10d")
_PYTORCH_DDP = ("pytorch_ddp", "c10d")

# fairseq divides by them: by some at the end of an epoch, which is lost, by the first in C, which ends the process.
_DIVISORS = (
    ("dataset", "required_batch_size_multiple"),
    ("dataset", "required_seq_len_multiple"),
    ("dataset", "validate_interval"),
    ("checkpoint", "save_interval"),
    ("common", "log_interval"),
)


def host_problems(options: Options) -> list[str]:
    """Return one message for each of fairseq's options with which this training cannot be done."""
    host = options.host
    problems = _mask_problems(host, options.scheme) + _parts_problems(host, options.scheme)
    # Networks are decoded in any precision, and without an optimizer.
    if host.optimizer_name is not None:
        problems += _worker_problems(host) + _precision_problems(host, options.autocast) + _saving_problems(host)
    return problems + _criteria_problems(host, options.criteria.interval)


def trains_on_cpu(host: HostOptions) -> bool:
    """Return whether fairseq's trainer uses the CPU (fairseq/trainer.py:60)."""
    return host.cpu or not torch.cuda.is_available()


def _mask_problems(host: HostOptions, scheme: SchemeOptions) -> list[str]:
    """Return what would move a masked parameter, or keep an update from running several networks."""
    name = scheme.as_given
    problems = []
    if scheme.masks:
        if scheme.core_only_from is not None and scheme.name != SchemeName.ALTERNATE:
            name += " --core-only-from"
        problems += _optimizer_problems(host, name)
    if host.has_workers and scheme.name.trains_several:
        problems += _data_parallel_problems(host, name, scheme)
    return problems


def _parts_problems(host: HostOptions, scheme: SchemeOptions) -> list[str]:
    """Return what keeps an update from other values, or masks, of elements of the model's own parameters."""
    if not scheme.of_parts and not scheme.freeze:
        return []
    name = scheme.as_given if scheme.of_parts else "--freeze"
    lower = {"--fp16": host.fp16, "--bf16": host.bf16, "--amp": host.amp and scheme.of_parts}
    problems = [
        f"{option} does not work with {name}, whose updates are of float32 weights; use --autocast bfloat16"
        for option, is_given in lower.items()
        if is_given
    ]
    if host.has_workers and host.ddp_backend not in LEGACY_DDP:
        problems.append(f"--ddp-backend is {host.ddp_backend}; allowed with {name} and several workers: legacy_ddp")
    return problems


def _optimizer_problems(host: HostOptions, name: str) -> list[str]:
    problems = []
    if host.optimizer_name not in (None, *MASKED_OPTIMIZERS):
        problems.append(
            f"--optimizer is {host.optimizer_name}; {name} needs {' or '.join(MASKED_OPTIMIZERS)}, since other "
            "optimizers move masked parameters by momentum and weight decay"
        )
    if host.use_bmuf:
        problems.append(f"--use-bmuf averages all parameters, masked ones too; with {name} leave it out")
    if host.zero_sharding != "none":
        problems.append(f"--zero-sharding is {host.zero_sharding}, which hides the optimizer; with {name}: none")
    return problems


def _data_parallel_problems(host: HostOptions, name: str, scheme: SchemeOptions) -> list[str]:
    if host.ddp_backend in LEGACY_DDP:
        return []
    if host.ddp_backend not in _PYTORCH_DDP:
        runs_all = scheme.name == SchemeName.SLIMMABLE
        cannot = "an update cannot run several networks" if runs_all else "parameters cannot be masked"
        return [
            f"--ddp-backend is {host.ddp_backend}, under which {cannot}; with {name} use legacy_ddp, or pytorch_ddp "
            "with --find-unused-parameters"
        ]
    if host.find_unused_parameters:
        return []
    return [
        f"--ddp-backend is {host.ddp_backend}, which would apply gradients of the core without synchronising them; "
        f"with {name} add --find-unused-parameters, or use --ddp-backend legacy_ddp"
    ]


def _worker_problems(host: HostOptions) -> list[str]:
    independent = independent_trainings_problem(host.distributed_world_size, os.environ)
    problems = [] if independent is None else [independent]
    if host.distributed_world_size > 1 and host.ddp_backend in _PYTORCH_DDP and trains_on_cpu(host):
        # It asks PyTorch for CUDA device 0 (fairseq/models/distributed_fairseq_model.py:62).
        problems.append(f"--ddp-backend is {host.ddp_backend}, which fairseq has for GPUs only; on a CPU: legacy_ddp")
    return problems


def _precision_problems(host: HostOptions, autocast: str | None) -> list[str]:
    given = {"--fp16": host.fp16, "--bf16": host.bf16, "--amp": host.amp}
    lower = [option for option, is_given in given.items() if is_given]
    problems = []
    if host.tpu:
        # Also --memory-efficient-bf16.
        problems.append(
            "--bf16 on the command line means a TPU to fairseq (fairseq/options.py:201), which is not supported; use "
            "--autocast bfloat16, or common.bf16=true of fairseq-hydra-train"
        )
    problems += [
        f"common.memory_efficient_{name} is true and common.{name} is not, so that fairseq would train in float32; "
        "set both"
        for name, efficient, plain in (
            ("fp16", host.memory_efficient_fp16, host.fp16),
            ("bf16", host.memory_efficient_bf16, host.bf16),
        )
        if efficient and not plain
    ]
    if autocast is not None:
        problems += [
            f"--autocast is {autocast} and {option} is another way to lower precision; leave one of them out"
            for option in lower
        ]
    elif len(lower) > 1:
        problems.append(f"{' and '.join(lower)} are different ways to lower precision; leave all but one out")
    flattens = host.fp16 and not (host.memory_efficient_fp16 or host.fp16_no_flatten_grads)
    if flattens and host.optimizer_name in MASKED_OPTIMIZERS:
        problems.append(
            f"--fp16 puts all parameters into one tensor, and {host.optimizer_name} cannot mask a part of it; add "
            "--fp16-no-flatten-grads, or use --memory-efficient-fp16 or --amp"
        )
    if trains_on_cpu(host):
        # fairseq/trainer.py:1023 moves a number to CUDA when gradients overflow. On a CPU PyTorch switches off the
        # autocast and the loss scaling that fairseq uses, and not-a-number gradients are applied.
        problems += [
            f"{option} needs a GPU: on a CPU fairseq {effect}; use --autocast bfloat16, or common.bf16=true of "
            "fairseq-hydra-train"
            for option, effect in (
                ("--fp16", "fails when gradients overflow"),
                ("--amp", "computes in float32 and applies gradients that overflow"),
            )
            if option in lower
        ]
    return problems


def _saving_problems(host: HostOptions) -> list[str]:
    if not host.write_checkpoints_asynchronously:
        return []
    return [
        "--write-checkpoints-asynchronously writes checkpoints in place, so that a killed training leaves half of one; "
        "leave it out"
    ]


def _criteria_problems(host: HostOptions, interval: int) -> list[str]:
    """Return what keeps the monitor from a gradient of all workers.

    Workers with weights of their own have no common point x. Under FSDP no worker has a whole gradient.
    """
    problems: list[str] = []
    if interval <= 0:
        return problems
    if host.use_bmuf:
        problems.append(f"--criteria-interval is {interval}, which does not work with --use-bmuf")
    allowed = (*LEGACY_DDP, *_PYTORCH_DDP)
    if host.has_workers and host.ddp_backend not in allowed:
        problems.append(
            f"--criteria-interval is {interval} and --ddp-backend is {host.ddp_backend}; allowed: {', '.join(allowed)}"
        )
    return problems


def fused_loss_problems(criterion: str | None, host: HostOptions, distillation_weight: float) -> list[str]:
    """Return what does not go with a loss that makes its gradient in the forward pass and keeps no logits.

    Args:
        criterion: the value of ``--criterion``.
    """
    if criterion != FUSED_LOSS:
        return []
    cannot = {
        "--fp16": (host.fp16, "gradients of logits are made before the loss is scaled, and would be zero in half"),
        "--amp": (host.amp, "gradients of logits are made before the loss is scaled, and would be zero in half"),
        "--distillation-weight": (distillation_weight != 0.0, "distillation compares logits, which are not kept"),
        f"--ddp-backend {host.ddp_backend}": (
            host.has_workers and host.ddp_backend not in LEGACY_DDP,
            "only legacy_ddp reduces the gradient of an output layer that runs outside the wrapped model",
        ),
    }
    return [
        f"--criterion is {FUSED_LOSS} and {option} is given: {reason}; use --criterion label_smoothed_cross_entropy"
        for option, (is_given, reason) in cannot.items()
        if is_given
    ]


def range_problems(cfg: PartitionedConfig) -> list[str]:
    """Return one message for each number on which fairseq would stop in the first update, or train something else."""
    problems = []
    optimizer = option_of(cfg, "optimizer", "_name")
    if optimizer in MASKED_OPTIMIZERS:
        problems += MASKED_OPTIMIZERS[optimizer](group_of(cfg, "optimizer"))
    problems += [
        f"--{name.replace('_', '-')} is 0, by which fairseq divides; allowed: 1 or more"
        for group, name in _DIVISORS
        if option_of(cfg, group, name) == 0
    ]
    for group, name in (("dataset", "max_tokens"), ("dataset", "batch_size")):
        value = option_of(cfg, group, name)
        if value is not None and value < 1:
            problems.append(f"--{name.replace('_', '-')} is {value}; allowed: 1 or more")
    warmup = option_of(cfg, "lr_scheduler", "warmup_updates")
    if option_of(cfg, "lr_scheduler", "_name") == "inverse_sqrt" and warmup < 1:
        problems.append(f"--warmup-updates is {warmup}; allowed: 1 or more, with --lr-scheduler inverse_sqrt")
    for value in option_of(cfg, "optimization", "update_freq") or []:
        if value < 1:
            problems.append(f"--update-freq is {value}; allowed: 1 or more")
    for value in option_of(cfg, "optimization", "lr") or []:
        if not 0 <= value < math.inf:
            problems.append(f"--lr is {value}; allowed: 0 or more")
    return problems

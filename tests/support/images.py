"""Trainings on images: command lines, and what fairseq builds from them in this process."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import optim, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

TASK = "image_classification_with_partitioned_model"
TINY = """--arch resnet10 --width 4 --optimizer sgd_for_partitioned_model --lr 0.05 --lr-scheduler fixed --batch-size 96
    --criterion label_smoothed_cross_entropy --label-smoothing 0 --report-accuracy --best-checkpoint-metric accuracy
    --maximize-best-checkpoint-metric --cpu --no-progress-bar --log-interval 1 --seed 7 --data-buffer-size 0
    --num-workers 0""".split()


def arguments(data: Path, *extra: str) -> list[str]:
    """Options of a training; a later option overrides an earlier one."""
    return [str(data), "--user-dir", "fairseq_ats", "--task", TASK, *TINY, *extra]


def train_command(data: Path, folder: Path, updates: int, *extra: str) -> list[str]:
    whole = ["--max-update", str(updates), "--save-dir", str(folder), "--no-epoch-checkpoints", *extra]
    return ["fairseq-train", *arguments(data, *whole)]


@cache
def parsed(data: Path, extra: tuple[str, ...]) -> Any:
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=arguments(data, *extra)))


def build(data: Path, *extra: str, **changes: Any) -> SimpleNamespace:
    """Configuration, task, model, criterion and optimizer of a command line.

    Args:
        changes: options by group and name, ``task__flip=0.5``, which is quicker than to parse a command line.
    """
    cfg = copy.deepcopy(parsed(data, extra))
    for name, value in changes.items():
        group, _, option = name.partition("__")
        if group == "model":  # a plain namespace
            setattr(cfg.model, option, value)
        else:
            OmegaConf.update(cfg, f"{group}.{option}", value)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(cfg.common.seed)
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    optimizer = optim.build_optimizer(cfg.optimizer, list(model.parameters()))
    return SimpleNamespace(cfg=cfg, task=task, model=model, criterion=criterion, optimizer=optimizer)


def update(built: SimpleNamespace, number: int, sample: dict[str, Any]) -> dict[str, Any]:
    """One update as fairseq's trainer makes it, with the missing gradients filled with zeros; its logging output."""
    built.model.train()
    _, size, logged = built.task.train_step(sample, built.model, built.criterion, built.optimizer, number)
    for p in built.model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad / size
    built.task.optimizer_step(built.optimizer, built.model, number)
    built.optimizer.zero_grad()
    return logged


def state(built: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Weights, running statistics and momentum, by name."""
    tensors = {name: value.clone() for name, value in built.model.state_dict().items()}
    for name, p in built.model.named_parameters():
        kept = built.optimizer.optimizer.state[p]
        tensors |= {f"{name}.{kind}": value.clone() for kind, value in kept.items() if value is not None}
    return tensors

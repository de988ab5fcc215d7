"""FLOPs of a training: the counted FLOPs of one average update of each level, times the updates of that level.

An estimate in one respect: the average mini-batch is taken to be sentences of one length, the same on both sides,
without padding. PyTorch's own count (:mod:`fairseq_ats.cost`), forward and backward, without the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from fairseq.tasks.translation import TranslationTask
from torch import nn
from train import options_of

from fairseq_ats.cost import model_of_checkpoint, network_cost
from fairseq_ats.loading import read_checkpoint
from fairseq_ats.saved_options import saved_options
from fairseq_ats.synthetic import build, numbered_dictionary


def flops_of_levels(
    model: nn.Module, task: TranslationTask, alternate: bool, tokens: float, sentences: float
) -> dict[int, int]:
    """Level → FLOPs of one update that trains it, for the levels that a training trains.

    Args:
        alternate: the training alternates between all levels; otherwise it trains the highest.
        tokens, sentences: of one update, on one side.
    """
    levels = task.partition.levels if alternate else [task.partition.max_level]
    length = max(1, round(tokens / sentences))
    count = max(1, round(tokens / length))
    return {level: network_cost(model, task, count, length, level).flops for level in levels}


def training_flops(of_levels: Mapping[int, int], updates: int) -> int:
    """Of so many updates: the highest level first, then down to the core, and again (Algorithm 2 for two levels)."""
    order = sorted(of_levels, reverse=True)
    return sum(of_levels[level] * len(range(turn, updates, len(order))) for turn, level in enumerate(order))


def flops_of_run(checkpoint: Path, tokens: float, sentences: float) -> dict[int, int]:
    """:func:`flops_of_levels` of a training, from any of its checkpoints.

    Raises:
        ValueError: the checkpoint cannot be read, or is of stock fairseq, which this cannot count.
    """
    task, model = model_of_checkpoint(str(checkpoint))
    header, _ = read_checkpoint(checkpoint)
    return flops_of_levels(model, task, saved_options(header, "task")["alternate"], tokens, sentences)


def flops_of_config(config: Path, vocabulary: int, tokens: float, sentences: float) -> dict[int, int]:
    """:func:`flops_of_levels` of a training that need not have begun."""
    options = options_of(yaml.safe_load(config.read_text(encoding="utf-8")), config)
    built = build(options, numbered_dictionary(vocabulary))
    return flops_of_levels(built.model, built.task, built.cfg.task.alternate, tokens, sentences)

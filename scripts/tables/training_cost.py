"""FLOPs of a training: the counted FLOPs of one average update of each level, for the updates that its scheme makes.

An estimate in one respect: the average mini-batch is taken to be sentences of one length, the same on both sides,
without padding. PyTorch's own count (:mod:`fairseq_ats.cost`), forward and backward, without the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from fairseq.tasks.translation import TranslationTask
from torch import nn
from train import options_of

from fairseq_ats.cost import Cost, model_of_checkpoint, network_cost, training_flops
from fairseq_ats.schemes import Schedule, schedule_of
from fairseq_ats.synthetic import build, numbered_dictionary


@dataclass(frozen=True)
class TrainingCost:
    """What the updates of a training cost.

    Args:
        costs: of an average mini-batch, by level.
        schedule: which levels each update runs.
        distils: smaller networks learn from the super-network's soft targets.
    """

    costs: Mapping[int, Cost]
    schedule: Schedule
    distils: bool = False

    def flops(self, updates: int) -> int:
        """Of so many updates from the start."""
        return training_flops(self.costs, self.schedule, range(updates), self.distils)

    def of_levels(self, updates: int) -> dict[int, int]:
        """Level → FLOPs of one pass of it, of the levels that so many updates run, from the core up."""
        running = {level for number in range(updates) for level in self.schedule.levels_of_update(number)}
        return {level: self.costs[level].flops for level in sorted(running)}


def cost_of(model: nn.Module, task: TranslationTask, tokens: float, sentences: float) -> TrainingCost:
    """The cost of training ``model`` as the task's options say.

    Args:
        tokens, sentences: of one update, on one side.
    """
    length = max(1, round(tokens / sentences))
    count = max(1, round(tokens / length))
    costs = {level: network_cost(model, task, count, length, level) for level in task.partition.levels}
    return TrainingCost(costs, schedule_of(task.cfg, task.partition.max_level), task.cfg.distillation_weight > 0)


def cost_of_run(checkpoint: Path, tokens: float, sentences: float) -> TrainingCost:
    """:func:`cost_of` a training, from any of its checkpoints.

    Raises:
        ValueError: the checkpoint cannot be read, or is of stock fairseq, which this cannot count.
    """
    task, model = model_of_checkpoint(str(checkpoint))
    return cost_of(model, task, tokens, sentences)


def cost_of_config(config: Path, vocabulary: int, tokens: float, sentences: float) -> TrainingCost:
    """:func:`cost_of` a training that need not have begun."""
    options = options_of(yaml.safe_load(config.read_text(encoding="utf-8")), config)
    built = build(options, numbered_dictionary(vocabulary))
    return cost_of(built.model, built.task, tokens, sentences)

"""Count the FLOPs of a training: those of one average mini-batch at each level, and which levels each update trains.

An estimate in one respect: the average mini-batch has sentences of one length, the same on both sides, without padding.
The count is PyTorch's own (:mod:`fairseq_ats.cost.cost`), forward and backward, without the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairseq.tasks.translation import TranslationTask
from torch import nn

from fairseq_ats.cost.cost import Cost, model_of_checkpoint, network_cost, training_flops
from fairseq_ats.cost.synthetic import build, numbered_dictionary
from fairseq_ats.options.values import Options
from fairseq_ats.schemes.schedule import Schedule


@dataclass(frozen=True)
class TrainingCost:
    """What the updates of a training cost.

    Args:
        costs: level → cost of an average mini-batch.
        schedule: which levels an update trains.
        distils: whether --distillation-weight is set.
    """

    costs: dict[int, Cost]
    schedule: Schedule
    distils: bool

    def flops(self, updates: int) -> int:
        """Return the FLOPs of the first ``updates`` updates."""
        return training_flops(self.costs, self.schedule, range(updates), self.distils)

    def trained(self, updates: int) -> set[int]:
        """Return the levels that the first ``updates`` updates train."""
        return {level for number in range(updates) for level in self.schedule.update(number).levels}


def cost_of_run(checkpoint: Path, tokens: float, sentences: float) -> TrainingCost:
    """Return what a training costs, from any of its checkpoints.

    Args:
        tokens, sentences: of an average update, on one side.

    Raises:
        ValueError: the checkpoint cannot be read, or is of stock fairseq, which this cannot count.
    """
    task, model = model_of_checkpoint(str(checkpoint))
    return _cost(task, model, tokens, sentences)


def cost_of_options(options: list[str], vocabulary: int, tokens: float, sentences: float) -> TrainingCost:
    """Return what a training costs that need not have begun.

    Args:
        options: of fairseq-train; they name the task, the model and the scheme.
        vocabulary: entries of both dictionaries.
        tokens, sentences: of an average update, on one side.
    """
    built = build(options, numbered_dictionary(vocabulary))
    return _cost(built.task, built.model, tokens, sentences)


def _cost(task: TranslationTask, model: nn.Module, tokens: float, sentences: float) -> TrainingCost:
    length = max(1, round(tokens / sentences))
    count = max(1, round(tokens / length))
    schedule = Options(task.cfg).scheme.schedule(task.partition.max_level)
    # Networks that no update trains are not counted.
    several = schedule.name.trains_several
    levels = task.partition.levels if several else (task.partition.max_level,)
    costs = {level: network_cost(model, task, count, length, level) for level in levels}
    return TrainingCost(costs, schedule, task.cfg.distillation_weight > 0)

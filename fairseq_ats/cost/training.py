"""Count the FLOPs of a training from the cost of one average mini-batch at each level.

The schedule says which levels each update trains. The result is an estimate in one respect: all sentences of the
average mini-batch have the same length on both sides, without padding. PyTorch counts the FLOPs of the forward and
backward passes (:mod:`fairseq_ats.cost.cost`). The optimizer is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from fairseq.tasks.translation import TranslationTask
from torch import nn

from fairseq_ats.cost.cost import (
    Cost,
    freeze_,
    model_of_checkpoint,
    network_cost,
    scheme_of_parts_flops,
    training_flops,
)
from fairseq_ats.cost.synthetic import build, numbered_dictionary
from fairseq_ats.options.values import Options
from fairseq_ats.schemes.partial_sgd import SchemeOfParts
from fairseq_ats.schemes.schedule import Schedule, SchemeName


@dataclass(frozen=True)
class TrainingCost:
    """The cost of the updates of a training.

    Args:
        costs: the cost of an average mini-batch, by level.
        schedule: the schedule that says which levels each update trains.
        distils: whether --distillation-weight is set.
        distils_from: the number of the first update that distils.
    """

    costs: dict[int, Cost]
    schedule: Schedule
    distils: bool
    distils_from: int = 0

    def flops(self, updates: int) -> int:
        """Return the FLOPs of the first ``updates`` updates."""
        return training_flops(self.costs, self.schedule, range(updates), self.distils, self.distils_from)

    def trained(self, updates: int) -> set[int]:
        """Return the levels that the first ``updates`` updates train."""
        return {level for number in range(updates) for level in self.schedule.update(number).levels}


def cost_of_run(checkpoint: Path, tokens: float, sentences: float) -> TrainingCost:
    """Return the cost of a training, read from any of its checkpoints.

    Args:
        tokens, sentences: the numbers of tokens and of sentences in an average update, on one side.

    Raises:
        ValueError: the checkpoint cannot be read, or it is not of a training of this plugin's translation task.
    """
    task, model = model_of_checkpoint(str(checkpoint))
    if not isinstance(task, TranslationTask):
        raise ValueError(f"{checkpoint} classifies images; trainings of translation are counted")
    return _cost(task, model, tokens, sentences)


def cost_of_options(options: list[str], vocabulary: int, tokens: float, sentences: float) -> TrainingCost:
    """Return the cost of a training from its options. The training need not have started.

    Args:
        options: options of fairseq-train that name the task, the model and the scheme.
        vocabulary: the number of entries in the dictionary that both sides use.
        tokens, sentences: the numbers of tokens and of sentences in an average update, on one side.
    """
    built = build(options, numbered_dictionary(vocabulary))
    return _cost(built.task, built.model, tokens, sentences)


def _cost(task: TranslationTask, model: nn.Module, tokens: float, sentences: float) -> TrainingCost:
    length = max(1, round(tokens / sentences))
    count = max(1, round(tokens / length))
    highest = task.partition.max_level
    scheme = Options(task.cfg).scheme.scheme_of(highest)
    freeze_(task, model)
    if isinstance(scheme, SchemeOfParts):
        of_update = partial(network_cost, model, task, count, length, highest)
        flops = round(scheme_of_parts_flops(scheme, task.model_parts(model), of_update))
        cost = replace(network_cost(model, task, count, length, highest), forward_flops=flops, backward_flops=0)
        return TrainingCost({highest: cost}, Schedule(SchemeName.STANDARD, highest), distils=False)
    schedule = cast(Schedule, scheme)
    # Do not count networks that no update trains.
    several = schedule.name.trains_several
    levels = task.partition.levels if several else (task.partition.max_level,)
    costs = {level: network_cost(model, task, count, length, level) for level in levels}
    distils = task.options.distillation
    return TrainingCost(costs, schedule, distils.weight > 0, distils.start)

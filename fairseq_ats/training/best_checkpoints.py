"""Keep the best checkpoint of each network that fairseq's own ``checkpoint_best.pt`` does not follow.

fairseq keeps one best checkpoint, by ``--best-checkpoint-metric``. If that is ``loss`` it is the super-network's, and
this module keeps ``checkpoint_best_core.pt`` by ``core_loss``, and ``checkpoint_best_level2.pt`` by ``level2_loss`` if
there is such a network; if it is ``core_loss``, ``checkpoint_best_super.pt`` by ``loss``. fairseq calls three hooks of
the task around a save, in this order: ``post_validate``, ``get_checkpoint_dict`` and ``post_save``
(fairseq_cli/train.py:506 and :439, fairseq/checkpoint_utils.py:101).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from fairseq_ats.checkpoints.names import best_checkpoint, last_checkpoint
from fairseq_ats.host.checkpoint_copies import WholeCopies
from fairseq_ats.partition.partition import Partition
from fairseq_ats.training.metrics import HIGHEST, metric_name, split_metric

logger = logging.getLogger(__name__)

# What a checkpoint says of one network: the metric, the best value so far, and the value of this checkpoint.
State = dict[str, float | str | None]


class BestOfNetwork:
    """Follows one validation metric and copies the saved checkpoint whenever it is the best so far.

    Args:
        network: whose best checkpoint it is.
        metric: by which it is the best.
        maximize: fairseq's ``--maximize-best-checkpoint-metric``.
        suffix: fairseq's ``--checkpoint-suffix``.
    """

    def __init__(self, network: str, metric: str, maximize: bool, suffix: str = "") -> None:
        self.network = network
        self.metric = metric
        self.maximize = maximize
        self.suffix = suffix
        self.best = -math.inf if maximize else math.inf
        self._validated: float | None = None
        self._is_best = False

    @property
    def file_name(self) -> str:
        return best_checkpoint(self.suffix, self.network)

    def updated(self) -> None:
        """After an update: an earlier validation, which no save followed, does not describe the network any more."""
        self._validated = None

    def validated(self, stats: dict[str, Any]) -> None:
        """After a validation: remember the value of the first subset, as fairseq does."""
        if self._validated is not None:
            return
        if stats.get(self.metric) is None:
            logger.warning(f"{self.metric} was not logged; {self.file_name} stays as it is")
        else:
            self._validated = float(stats[self.metric])

    def state_to_save(self) -> State:
        """Before the checkpoint is written: settle whether it is the best, so that it says so itself.

        ``value`` is of this checkpoint, as fairseq's ``val_loss`` is for its metric: None without a validation.
        """
        value = self._validated
        self._is_best = value is not None and (value >= self.best if self.maximize else value <= self.best)
        if self._is_best:
            self.best = value
        return {"metric": self.metric, "best": self.best, "value": value}

    def load_state(self, state: Mapping[str, float | str | None]) -> None:
        """On resume. A best value of another metric means nothing.

        If the checkpoint is itself the best, the run may have been killed before it was copied: call :meth:`saved`.
        """
        if state.get("metric") == self.metric:
            self.best = state["best"]
            self._is_best = state.get("value") == self.best

    def saved(self, checkpoint: str) -> None:
        """After the checkpoint is written: copy it, whole or not at all."""
        if not self._is_best:
            return
        self._is_best = False
        folder = os.path.dirname(checkpoint)
        if not os.path.exists(checkpoint):
            # fairseq names the first of the files it wrote, and may have pruned that one (--keep-interval-updates).
            checkpoint = os.path.join(folder, last_checkpoint(self.suffix))
        target = os.path.join(folder, self.file_name)
        WholeCopies.copy(checkpoint, target, overwrite=True)
        logger.info(f"best {self.metric} {self.best:g}: copied to {target}")


def best_of_other_networks(
    partition: Partition, best_checkpoint_metric: str, maximize: bool, keeps_last: bool = True, suffix: str = ""
) -> list[BestOfNetwork]:
    """One for each network of the run that fairseq's best checkpoint does not follow, from the core up.

    Args:
        best_checkpoint_metric: fairseq's option; the metric of a network below the highest has its name before it.
        keeps_last: whether each save writes ``checkpoint_last.pt`` (no ``--no-last-checkpoints``). Without it fairseq
            writes nothing after some validations, and does not call ``post_save`` (fairseq_cli/train.py:445).
        suffix: fairseq's ``--checkpoint-suffix``.

    Raises:
        ValueError: the metric is of a network that the run has not, or that reports under the usual names in it; or
            there is a network whose best checkpoint could not always be kept.
    """
    names = {partition.network_name(level): level for level in partition.levels}
    highest = partition.network_name(partition.max_level)
    followed, metric = split_metric(best_checkpoint_metric)
    if followed == highest:
        raise ValueError(
            f"--best-checkpoint-metric is {best_checkpoint_metric}; {followed} is the highest network of this run, and "
            f"reports as {metric}"
        )
    if followed != HIGHEST and followed not in names:
        raise ValueError(
            f"--best-checkpoint-metric is {best_checkpoint_metric}, and this run has no network {followed}; it has "
            f"{', '.join(names)}"
        )
    others = [
        BestOfNetwork(name, metric_name(HIGHEST if name == highest else name, metric), maximize, suffix)
        for name in names
        if name != (followed or highest)
    ]
    if others and not keeps_last:
        raise ValueError(
            "--no-last-checkpoints is given: fairseq then writes no file after some validations, and "
            f"{' and '.join(other.file_name for other in others)} would miss them; leave it out"
        )
    return others


def states_of(saved: State | list[State]) -> list[State]:
    """What a checkpoint says of each network: of one, a dictionary, as runs of two networks have saved it always."""
    return saved if isinstance(saved, list) else [saved]


def as_saved(states: list[State]) -> State | list[State]:
    """Undo :func:`states_of`.

    A run of one network says that it has nothing to say: fairseq calls ``set_checkpoint_dict`` on a resume, where its
    metrics are brought back, only if there is something (fairseq/checkpoint_utils.py:294).
    """
    states = states or [{"metric": None, "best": None, "value": None}]
    return states[0] if len(states) == 1 else states

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

from fairseq_ats.host.checkpoint_copies import WholeCopies
from fairseq_ats.partition.names import Networks
from fairseq_ats.partition.partition import Partition

logger = logging.getLogger(__name__)

# What a checkpoint says of one network: the metric, the best value so far, and the value of this checkpoint.
State = dict[str, float | str | None]


class BestOfNetwork:
    """Follows one validation metric and copies the saved checkpoint whenever it is the best so far.

    Args:
        network: whose best checkpoint it is.
        metric: by which it is the best.
        maximize: fairseq's ``--maximize-best-checkpoint-metric``.
        keeps_last: whether each save also writes ``checkpoint_last.pt`` (no ``--no-last-checkpoints``).
    """

    def __init__(self, network: str, metric: str, maximize: bool, keeps_last: bool = True) -> None:
        self.network = network
        self.metric = metric
        self.maximize = maximize
        self.keeps_last = keeps_last
        self.best = -math.inf if maximize else math.inf
        self._validated: float | None = None
        self._is_best = False

    @property
    def file_name(self) -> str:
        return f"checkpoint_best_{self.network}.pt"

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
            checkpoint = os.path.join(folder, "checkpoint_last.pt")
            if not self.keeps_last:
                logger.warning(f"best {self.metric} {self.best:g}, but fairseq kept no checkpoint of it to copy")
                return
        target = os.path.join(folder, self.file_name)
        WholeCopies.copy(checkpoint, target, overwrite=True)
        logger.info(f"best {self.metric} {self.best:g}: copied to {target}")


def best_of_other_networks(
    partition: Partition, best_checkpoint_metric: str, maximize: bool, keeps_last: bool = True
) -> list[BestOfNetwork]:
    """One for each network of the run that fairseq's best checkpoint does not follow, from the core up.

    Args:
        best_checkpoint_metric: fairseq's option; the metric of a network below the highest has its name before it.

    Raises:
        ValueError: the metric is of a network that the run has not, or that reports under the usual names in it.
    """
    networks = Networks.of(partition)
    followed, metric = networks.split_metric(best_checkpoint_metric)
    if followed == networks.names[-1] and metric != best_checkpoint_metric:
        raise ValueError(
            f"--best-checkpoint-metric is {best_checkpoint_metric}; {followed} is the highest network of this run, and "
            f"reports as {metric}"
        )
    if followed not in networks.names:
        raise ValueError(
            f"--best-checkpoint-metric is {best_checkpoint_metric}, and this run has no network {followed}; it has "
            f"{', '.join(networks.names)}"
        )
    return [
        BestOfNetwork(networks.name(level), networks.metric_name(level, metric), maximize, keeps_last)
        for level in networks.levels
        if networks.name(level) != followed
    ]


def states_of(saved: State | list[State]) -> list[State]:
    """What a checkpoint says of each network: of one, a dictionary, as runs of two networks have saved it always."""
    return saved if isinstance(saved, list) else [saved]


def as_saved(states: list[State]) -> State | list[State]:
    """The inverse of :func:`states_of`."""
    return states[0] if len(states) == 1 else states

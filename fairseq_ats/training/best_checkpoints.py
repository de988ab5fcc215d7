"""Keep the best checkpoint of each network that fairseq's own ``checkpoint_best.pt`` does not follow.

fairseq keeps one best checkpoint, by ``--best-checkpoint-metric``. With ``loss`` that is the super-network's, and this
module keeps ``checkpoint_best_core.pt`` by ``core_loss``, and ``checkpoint_best_level2.pt`` by ``level2_loss`` if there
is such a network. With ``core_loss`` this module keeps ``checkpoint_best_super.pt`` by ``loss``. fairseq calls three
hooks of the task around a save, in this order: ``post_validate``, ``get_checkpoint_dict`` and ``post_save``
(fairseq_cli/train.py:506 and :439, fairseq/checkpoint_utils.py:101).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import Any, cast

from fairseq_ats.checkpoints.keys import State
from fairseq_ats.checkpoints.names import best_checkpoint, last_checkpoint
from fairseq_ats.host.checkpoint_copies import WholeCopies
from fairseq_ats.partition.names import Networks
from fairseq_ats.partition.partition import Partition

logger = logging.getLogger(__name__)


class BestOfNetwork:
    """Follow one validation metric, and copy the saved checkpoint whenever it is the best so far.

    Args:
        network: the network's name.
        metric: the metric by which checkpoints are compared.
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
        """Forget, after an update, a validation that no save followed: the network has changed."""
        self._validated = None

    def validated(self, stats: dict[str, Any]) -> None:
        """Remember, after a validation, the value of the first subset, as fairseq does."""
        if self._validated is not None:
            return
        if stats.get(self.metric) is None:
            logger.warning(f"{self.metric} was not logged; {self.file_name} stays as it is")
        else:
            self._validated = float(stats[self.metric])

    def state_to_save(self) -> State:
        """Decide, before the checkpoint is written, whether it is the best, so that the checkpoint itself says so.

        ``value`` describes this checkpoint, as fairseq's ``val_loss`` does for its metric: None without a validation.
        """
        value = self._validated
        self._is_best = value is not None and (value >= self.best if self.maximize else value <= self.best)
        if value is not None and self._is_best:
            self.best = value
        return {"metric": self.metric, "best": self.best, "value": value}

    def load_state(self, state: Mapping[str, float | str | None]) -> None:
        """Take over the state of a checkpoint on resume, unless it is for another metric.

        If the checkpoint is itself the best, the run may have been killed before it was copied: call :meth:`saved`.
        """
        if state.get("metric") == self.metric:
            self.best = cast(float, state["best"])  # None only without a metric
            self._is_best = state.get("value") == self.best

    def saved(self, checkpoint: str) -> None:
        """Copy the checkpoint, after it is written, if it is the best."""
        if not self._is_best:
            return
        self._is_best = False
        folder = os.path.dirname(checkpoint)
        if not os.path.exists(checkpoint):
            # fairseq names the first file that it wrote, and may have pruned it (--keep-interval-updates).
            checkpoint = os.path.join(folder, last_checkpoint(self.suffix))
        target = os.path.join(folder, self.file_name)
        WholeCopies.copy(checkpoint, target, overwrite=True)
        logger.info(f"best {self.metric} {self.best:g}: copied to {target}")


def best_of_other_networks(
    partition: Partition,
    best_checkpoint_metric: str,
    maximize: bool,
    keeps_last: bool = True,
    suffix: str = "",
    perturbed: bool = False,
) -> list[BestOfNetwork]:
    """Return one for each network of the run that fairseq's best checkpoint does not follow, from the core up.

    Args:
        best_checkpoint_metric: fairseq's option. The metric of a network below the highest has its name in front.
        keeps_last: whether each save writes ``checkpoint_last.pt`` (no ``--no-last-checkpoints``). Without it fairseq
            writes nothing after some validations, and does not call ``post_save`` (fairseq_cli/train.py:445).
        suffix: fairseq's ``--checkpoint-suffix``.
        perturbed: whether the perturbed network is validated as well.

    Raises:
        ValueError: the run does not have the metric's network, or that network reports under the usual names in it; or
            the best checkpoint of a network could not always be kept.
    """
    networks = Networks.of(partition, perturbed)
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
    others = [
        BestOfNetwork(networks.name(level), networks.metric_name(level, metric), maximize, suffix)
        for level in networks.levels
        if networks.name(level) != followed
    ]
    if others and not keeps_last:
        raise ValueError(
            "--no-last-checkpoints is given: fairseq then writes no file after some validations, and "
            f"{' and '.join(other.file_name for other in others)} would miss them; leave it out"
        )
    return others

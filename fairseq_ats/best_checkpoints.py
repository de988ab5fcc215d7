"""Keep the best checkpoint of the network that fairseq's own ``checkpoint_best.pt`` does not follow.

fairseq keeps one best checkpoint, by ``--best-checkpoint-metric``. If that is ``loss`` it is the super-network's, and
this module keeps ``checkpoint_best_core.pt`` by ``core_loss``; if it is ``core_loss``, ``checkpoint_best_super.pt`` by
``loss``. fairseq calls three hooks of the task around a save, in this order: ``post_validate``,
``get_checkpoint_dict`` and ``post_save`` (fairseq_cli/train.py:506 and :439, fairseq/checkpoint_utils.py:101).
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from fairseq_ats.metrics import CORE, core_name
from fairseq_ats.whole_checkpoints import WholeCopies

logger = logging.getLogger(__name__)


class BestOfOtherNetwork:
    """Follows one validation metric and copies the saved checkpoint whenever it is the best so far.

    Args:
        best_checkpoint_metric: fairseq's option, with or without ``core_`` before it.
        maximize: fairseq's ``--maximize-best-checkpoint-metric``.
        keeps_last: whether each save also writes ``checkpoint_last.pt`` (no ``--no-last-checkpoints``).
    """

    def __init__(self, best_checkpoint_metric: str, maximize: bool, keeps_last: bool = True) -> None:
        prefix = core_name("")
        if best_checkpoint_metric.startswith(prefix):
            self.network, self.metric = "super", best_checkpoint_metric.removeprefix(prefix)
        else:
            self.network, self.metric = CORE, core_name(best_checkpoint_metric)
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

    def state_to_save(self) -> dict[str, float | str | None]:
        """Before the checkpoint is written: settle whether it is the best, so that it says so itself.

        ``value`` is of this checkpoint, as fairseq's ``val_loss`` is for its metric: None without a validation.
        """
        value = self._validated
        self._is_best = value is not None and (value >= self.best if self.maximize else value <= self.best)
        if self._is_best:
            self.best = value
        return {"metric": self.metric, "best": self.best, "value": value}

    def load_state(self, state: dict[str, float | str | None]) -> None:
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

"""Let a worker that runs out of memory skip its batch and stay in step with the other workers.

fairseq's trainer recovers too, but then the worker has no logging output to add to those of the others, and workers add
up buffers of different lengths (fairseq/trainer.py:1456): gloo aborts, NCCL waits for ever. Here the worker takes part
with a batch of no tokens, as fairseq's own workers do when they run out of data before the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch

logger = logging.getLogger(__name__)

StepResult = tuple[Any, Any, dict[str, Any]]


class OutOfMemoryGuard:
    """Run the forward and backward passes of one mini-batch among several workers.

    Args:
        workers: their number. With a single worker errors are left to fairseq, which skips the update.
        reduces_afterwards: whether gradients are reduced after all backward passes (legacy_ddp) and not during them
            (pytorch_ddp), where the other workers would wait for this one.
    """

    def __init__(self, workers: int, reduces_afterwards: bool) -> None:
        self.workers = workers
        self.reduces_afterwards = reduces_afterwards
        self._empty: dict[Hashable, StepResult] = {}

    def __call__(self, step: Callable[[], StepResult], optimizer: Any, logs: Hashable) -> StepResult:
        """Return the result of ``step``, or one of no tokens and without gradients if it runs out of memory.

        Gradients that the worker accumulated in the same update (``--update-freq``) are lost with it, as in fairseq.

        Args:
            logs: equal for two steps that log under the same names.

        Raises:
            RuntimeError: the others cannot go on because of the backend, or because no batch has told yet what such a
                step logs. The words are such that fairseq does not take the error for recoverable.
        """
        if self.workers == 1:
            return step()
        try:
            result = step()
        except RuntimeError as error:
            if "out of memory" not in str(error):  # as fairseq tells (fairseq/trainer.py:862)
                raise
            logger.warning(f"{error}\nskipping a batch; with a smaller --max-tokens it would fit")
            if not self.reduces_afterwards or logs not in self._empty:
                raise RuntimeError(
                    "a worker is short of memory and the others cannot go on without its batch; use a smaller "
                    "--max-tokens" + ("" if self.reduces_afterwards else ", or --ddp-backend legacy_ddp to skip it")
                ) from error
        else:
            loss, sample_size, logging_output = result
            logged = {name: value * 0 for name, value in logging_output.items()}
            self._empty[logs] = (loss.detach() * 0, sample_size * 0, logged)
            return result
        # Outside the except clause: its traceback holds the tensors of the failed pass.
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._empty[logs]

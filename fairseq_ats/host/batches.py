"""Build separate batches for each epoch and each validation, and release them afterwards."""

from __future__ import annotations

import gc
from typing import Any

from fairseq.tasks import FairseqTask


class BatchesOfTheirOwn(FairseqTask):
    """Mixin to put before a fairseq task: batches depend only on the seed and the epoch, and are released."""

    def __init__(self, cfg: Any, *data: Any) -> None:
        super().__init__(cfg, *data)
        self._iterated: set[Any] = set()  # data sets for which an iterator was built before

    def can_reuse_epoch_itr(self, dataset: Any) -> bool:
        """Return False, so that fairseq builds an iterator for each epoch and each validation.

        The batches of a reused iterator depend on the epoch in which the process started and, in a validation, on the
        number of earlier validations (fairseq/data/iterators.py:417). A resumed run would see different batches.
        """
        return False

    def get_batch_iterator(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        """Build fairseq's iterator, and release its workers and batches when it is exhausted.

        fairseq keeps the loading processes for the next epoch (``persistent_workers``). Here the next epoch gets a new
        iterator, so each epoch and each validation would leave a copy of the training's memory behind.
        """
        if options.get("num_workers", 0) > 0:
            # Without a buffer fairseq counts the batches and asks for no more, so the loader never notices its end.
            options["data_buffer_size"] = max(1, options.get("data_buffer_size", 0))
        if dataset in self._iterated:
            # A reference cycle keeps the previous iterator and its batches alive (fairseq/data/iterators.py:488, a
            # bound method as sampler); collect it.
            gc.collect()
        self._iterated.add(dataset)
        batches = super().get_batch_iterator(dataset, *arguments, **options)
        batches.persistent_workers = batches.reuse_dataloader = False
        return batches

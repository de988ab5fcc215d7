"""Give each epoch and each validation batches of its own, and release them afterwards."""

from __future__ import annotations

import gc
from typing import Any

from fairseq.tasks import FairseqTask


class BatchesOfTheirOwn(FairseqTask):
    """Mixin before a fairseq task: batches follow from the seed and the epoch's number, and leave nothing behind."""

    def __init__(self, cfg: Any, *data: Any) -> None:
        super().__init__(cfg, *data)
        self._iterated: set[Any] = set()  # data sets that have had batches

    def can_reuse_epoch_itr(self, dataset: Any) -> bool:
        """Do not let one iterator serve every epoch, or every validation, of a process.

        Its batches would depend on the epoch in which the process began and, for a validation, on how many there were
        before (fairseq/data/iterators.py:417). A resumed run would see other batches.
        """
        return False

    def get_batch_iterator(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        """Build fairseq's iterator, and release its workers and batches when it is exhausted.

        fairseq keeps the loading processes for the next epoch (``persistent_workers``), but here the next epoch has an
        iterator of its own: each epoch and each validation would leave a copy of the training's memory behind.
        """
        if options.get("num_workers", 0) > 0:
            # Without a buffer fairseq counts the batches and asks for no more, so the loader never learns of its end.
            options["data_buffer_size"] = max(1, options.get("data_buffer_size", 0))
        if dataset in self._iterated:
            # A reference cycle keeps the previous iterator and its batches alive (fairseq/data/iterators.py:488, a
            # bound method as sampler); collect it.
            gc.collect()
        self._iterated.add(dataset)
        batches = super().get_batch_iterator(dataset, *arguments, **options)
        batches.persistent_workers = batches.reuse_dataloader = False
        return batches

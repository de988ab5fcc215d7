"""Say which worker of a training this process is, and let the workers exchange tensors."""

from __future__ import annotations

from dataclasses import dataclass

from fairseq.distributed import utils as distributed_utils
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """The data-parallel workers of a training, and this one among them. All of them call the methods together.

    Args:
        count: their number.
        rank: of this one, from 0.
    """

    count: int = 1
    rank: int = 0

    @classmethod
    def of_this_process(cls) -> Workers:
        count = distributed_utils.get_data_parallel_world_size()
        # fairseq reads the rank from a process group, and a single process has no such group.
        return cls(count, distributed_utils.get_data_parallel_rank() if count > 1 else 0)

    def add_up_(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over the workers."""
        if self.count > 1:
            distributed_utils.all_reduce(tensor, distributed_utils.get_data_parallel_group())

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all workers, which are of one shape, by rank."""
        if self.count == 1:
            return [tensor]
        return distributed_utils.all_gather(tensor, distributed_utils.get_data_parallel_group())


ALONE = Workers()

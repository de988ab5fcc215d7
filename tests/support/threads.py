"""Workers of a training as threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from fairseq_ats.host.workers import Workers


class Meeting:
    """Where so many threads exchange tensors."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=60)
        self.handed: dict[int, Tensor] = {}

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.handed[rank] = tensor.clone()
        self.barrier.wait()
        everybodys = [self.handed[rank] for rank in sorted(self.handed)]
        self.barrier.wait()
        return everybodys


class Threads(Workers):
    """The workers, as what they train has them."""

    def __init__(self, count: int, rank: int, meeting: Meeting) -> None:
        super().__init__(count, rank)
        self.__dict__["meeting"] = meeting  # of a frozen dataclass

    def add_up_(self, tensor: Tensor) -> None:
        tensor.copy_(sum(self.gathered(tensor)))

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        return self.__dict__["meeting"].exchange(self.rank, tensor)


def in_threads(count: int, work: Callable[[Threads], Any]) -> list[Any]:
    """What each of the workers returns."""
    meeting = Meeting(count)

    def guarded(rank: int) -> Any:
        try:
            return work(Threads(count, rank, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(guarded, range(count)))

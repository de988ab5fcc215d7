"""Bring together what the workers of a training own: weights, and what the optimizer keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_ats.architectures.parts import Owned
from fairseq_ats.host.workers import Workers


@dataclass(frozen=True)
class _Piece:
    """Some rows or columns of a tensor."""

    tensor: Tensor
    dim: int
    index: Tensor

    def size(self) -> int:
        return self.tensor.numel() // self.tensor.shape[self.dim] * len(self.index)

    def taken(self) -> Tensor:
        return self.tensor.index_select(self.dim, self.index)

    def put(self, values: Tensor) -> None:
        """Replace the piece by the same number of values."""
        self.tensor.index_copy_(self.dim, self.index, values.view(self.taken().shape))


@dataclass
class Exchange:
    """What the workers own of the parameters, and what each has a copy of.

    Args:
        owned: the parameters whose rows or columns have owners.
        averaged: the parameters of which each worker trains a copy.
        sent: how many bytes this worker has sent, if the collectives are rings.
    """

    workers: Workers
    owned: Sequence[Owned]
    averaged: Sequence[nn.Parameter]
    sent: float = 0.0

    @torch.no_grad()
    def __call__(self, optimizer: torch.optim.Optimizer, rank_of: Sequence[Tensor]) -> None:
        """Give every worker what the others own, in one collective, and the mean of all copies.

        Args:
            rank_of: the worker that owns each row or column, for each of :attr:`owned`.
        """
        of_rank = [
            [
                _Piece(value, one.dim, (ranks == rank).nonzero().flatten().to(value.device))
                for one, ranks in zip(self.owned, rank_of, strict=True)
                for value in _values(one.parameter, optimizer)
            ]
            for rank in range(self.workers.count)
        ]
        own = torch.cat([piece.taken().flatten() for piece in of_rank[self.workers.rank]])
        longest = max(sum(map(_Piece.size, pieces)) for pieces in of_rank)
        own = F.pad(own, (0, longest - own.numel()))
        for pieces, received in zip(of_rank, self.workers.gathered(own), strict=True):
            start = 0
            for piece in pieces:
                piece.put(received[start : start + piece.size()])
                start += piece.size()
        self.sent += (self.workers.count - 1) * own.nbytes
        if self.averaged:
            self._average([value for p in self.averaged for value in _values(p, optimizer)])

    def reduced(self, parameters: Sequence[nn.Parameter]) -> None:
        """Count the bytes of a sum over the workers of the gradients of these parameters."""
        self.sent += sent_in_a_sum(sum(p.nbytes for p in parameters), self.workers.count)

    def _average(self, values: Sequence[Tensor]) -> None:
        flat = torch.cat([value.flatten() for value in values])
        self.workers.add_up_(flat)
        for value, mean in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value) / self.workers.count)
        self.sent += sent_in_a_sum(flat.nbytes, self.workers.count)


def sent_in_a_sum(nbytes: int, workers: int) -> float:
    """Return how many bytes each worker sends while a ring adds up buffers of ``nbytes``: 2(K − 1)/K of one."""
    return 2 * (workers - 1) / workers * nbytes


def _values(p: nn.Parameter, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield a parameter's weight, and each tensor of its shape that the optimizer keeps."""
    yield p.data
    for _, value in sorted(optimizer.state[p].items()):
        if isinstance(value, Tensor) and value.shape == p.shape:
            yield value

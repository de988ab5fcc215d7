"""Sketches: random diagonal matrices S with E[S] = I, which keep some coordinates and scale them up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_ats.schemes.draws import Draws

KINDS = ("bernoulli", "rand-k", "permutation")


@dataclass(frozen=True)
class Sketches:
    r"""A distribution of sketches of n coordinates.

    ================ ===================================================== ================== ========================
    kind             a coordinate is kept                                  value              :math:`E[s_i s_j]`
    ================ ===================================================== ================== ========================
    ``bernoulli``    with probability q, independently                     1/q                1; 1/q for i = j
    ``rand-k``       k = max(1, round(q n)) of them                        n/k                n(k−1)/(k(n−1)); n/k
    ``permutation``  by one of K micro-batches, each a part of its own     K                  K for i = j
    ================ ===================================================== ================== ========================

    The K sketches of a permutation have the mean I, whatever is drawn. Their parts differ in size by at most one.

    Args:
        keep_prob: q.
        parts: K.
    """

    kind: str
    keep_prob: float
    parts: int

    def drawn(self, draws: Draws, size: int, number: int, batch: int, name: str) -> tuple[Tensor, float]:
        """Draw the sketch of one micro-batch.

        Args:
            size: n.
            number: of the update.
            batch: the number of the micro-batch, over all workers.
            name: of these coordinates; the draws of different names are independent.

        Returns:
            Which coordinates are kept, (n,), bool, and their value.
        """
        if self.kind == "permutation":
            owners = draws.divided(self.parts, size, number, name)
            # Where the parts differ in size, each micro-batch has a larger one equally often.
            first = int(torch.randint(self.parts, (), generator=draws.generator(number, f"first {name}")))
            return (owners + first) % self.parts == batch % self.parts, float(self.parts)
        generator = draws.generator(number, f"{batch} {name}")
        if self.kind == "bernoulli":
            return torch.rand(size, generator=generator) < self.keep_prob, 1 / self.keep_prob
        count = max(1, round(self.keep_prob * size))
        kept = torch.zeros(size, dtype=torch.bool)
        kept[torch.randperm(size, generator=generator)[:count]] = True
        return kept, size / count

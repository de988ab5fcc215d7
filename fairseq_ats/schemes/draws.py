"""Draw at random, and choose by magnitude, the same on every worker and after every resume."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Draws:
    """Random numbers that depend on (seed, purpose, update, part) alone.

    They never touch PyTorch's own generator, so stock dropout draws what it would have drawn. They come from a CPU, so
    every device agrees.

    Args:
        seed: fairseq's ``--seed``.
        purpose: draws for different purposes are independent.
    """

    seed: int
    purpose: str = "update"

    def generator(self, number: int, part: str = "") -> torch.Generator:
        """Return a new generator for a part of the update of this number."""
        digest = hashlib.sha256(f"{self.seed} {self.purpose} {number} {part}".encode()).digest()
        # PyTorch's generator on a CPU uses the lowest 32 bits.
        return torch.Generator().manual_seed(int.from_bytes(digest[:4]))

    def kept(self, keep_prob: float, size: int | torch.Size, number: int, part: str) -> Tensor:
        """Return a bool tensor whose entries are true independently with ``keep_prob``, and at least one of them is."""
        generator = self.generator(number, part)
        kept = torch.rand(size, generator=generator) < keep_prob
        if kept.numel() > 0 and not kept.any():
            kept.view(-1)[torch.randint(kept.numel(), (), generator=generator)] = True
        return kept

    def divided(self, count: int, size: int, number: int, part: str) -> Tensor:
        """Divide ``size`` elements into ``count`` parts of equal sizes, or with a difference of one.

        Returns:
            The part of each element, from 0; (size,).
        """
        owners = torch.empty(size, dtype=torch.long)
        owners[torch.randperm(size, generator=self.generator(number, part))] = torch.arange(size) % count
        return owners


def largest(values: Mapping[Key, Tensor], count: int) -> dict[Key, Tensor]:
    """Return bool tensors that select the ``count`` elements of largest magnitude of all tensors together.

    Of equal magnitudes the first count, in the order of the tensors and of their elements.
    """
    magnitudes = torch.cat([value.detach().abs().flatten() for value in values.values()])
    chosen = torch.zeros_like(magnitudes, dtype=torch.bool)
    if count > 0:
        threshold = magnitudes.kthvalue(len(magnitudes) - count + 1).values
        chosen = magnitudes > threshold
        equal = (magnitudes == threshold).nonzero().flatten()
        chosen[equal[: count - int(chosen.sum())]] = True
    parts = chosen.split([value.numel() for value in values.values()])
    return {key: part.view(value.shape) for (key, value), part in zip(values.items(), parts, strict=True)}

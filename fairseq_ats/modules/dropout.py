"""Dropout with random numbers that are cheap on a CPU."""

from __future__ import annotations

import torch
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor

# The number of values of 16 bits.
_VALUES = 2**16


class FastDropout(FairseqDropout):
    """fairseq's dropout that, on a CPU, draws 64 random bits for four elements at once: 16 bits decide an element.

    PyTorch draws one random number for each element. In bfloat16 that is a large part of an update
    (results/speed/notes.md). The probability is rounded to a multiple of 2⁻¹⁶, and the scale is computed from the
    rounded probability, so expectations are kept up to the precision of the activations. On other devices PyTorch's own
    kernel runs.
    """

    @classmethod
    def convert_(cls, dropout: FairseqDropout) -> FastDropout:
        """Turn a stock module into this class in place."""
        dropout.__class__ = cls
        return dropout

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Zero elements with probability ``p`` and scale the others by 1 / (1 - p), in training."""
        dropped = round(self.p * _VALUES)
        is_active = self.training or self.apply_during_inference
        if not is_active or x.device.type != "cpu" or not 0 < dropped < _VALUES:
            return super().forward(x, inplace)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        # Compared into the type of x: to compare and to convert takes several times as long (results/speed/notes.md).
        keep = torch.ge(bits, dropped - _VALUES // 2, out=torch.empty_like(x))
        return x * keep.mul_(_VALUES / (_VALUES - dropped))

"""Train one layer after the other (Bengio et al., 2007)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fairseq_ats.optim.mask import EVERYTHING, ElementMask
from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update


@dataclass(eq=False)
class Layerwise(SchemeOfParts):
    """p selects the parameters of some layers, as whole tensors; x̃ = x.

    Embeddings move with the first layer, the output with the last. Nothing below the lowest layer that moves needs a
    backward pass. ``growing`` trains layers 0 to t/N of a network that has all its layers from the start, unlike the
    greedy training of Bengio et al.
    """

    order: str = choice("which layers move", "cyclic", "random", "growing", default="cyclic")
    updates: int = argument("N, updates before the next layer", "1 or more", lambda value: value >= 1, default=1)

    @property
    def typical_updates(self) -> Sequence[int]:
        turns = len(self.parts.layers)
        return [turn * self.updates for turn in range(turns - 1 if self.order == "growing" else 0, turns)]

    def update(self, number: int) -> Update:
        count, turn = len(self.parts.layers), number // self.updates
        if self.order == "growing":
            moving = range(min(turn + 1, count))
        elif self.order == "cyclic":
            moving = range(turn % count, turn % count + 1)
        else:
            drawn = int(torch.randint(count, (), generator=self.draws.generator(turn, "layer")))
            moving = range(drawn, drawn + 1)
        fixed = {p: False for n, layer in enumerate(self.parts.layers) if n not in moving for p in layer}
        return Update(number, (self.whole,), ElementMask(fixed) if fixed else EVERYTHING)

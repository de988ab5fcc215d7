"""Put a model at a point: where an update, or the monitor, takes a gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim.mask import Mask


class Point(ABC):
    """A point x + δx_t, where x are the parameters as they are."""

    # The network that runs.
    level: int

    @abstractmethod
    def of(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put ``model`` at this point inside the context, and restore it on exit, whatever happens.

        Forward *and* backward belong inside.
        """


@dataclass(frozen=True)
class NetworkPoint(Point):
    """The network of ``level`` as it is: δx_t = −(1 − p) ⊙ x, without computing with the zeros."""

    level: int

    def of(self, model: nn.Module) -> AbstractContextManager[None]:
        return use_level(model, self.level)


@dataclass(frozen=True)
class MaskedPoint(Point):
    """p ⊙ x: the network of ``level``, with zeros outside the mask."""

    level: int
    mask: Mask

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        values = []
        for p in model.parameters():
            selected = self.mask.of(p)
            if selected is not True:
                values.append((p, p.data))
                p.data = torch.zeros_like(p.data) if selected is False else p.data * selected
        try:
            with use_level(model, self.level):
                yield
        finally:
            for p, value in values:
                p.data = value

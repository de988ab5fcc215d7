"""Take the gradient at a point a step ahead (Korpelevich, 1976)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update
from fairseq_ats.schemes.points import MovedPoint, Point


@dataclass(eq=False)
class Extragradient(SchemeOfParts):
    """x̃ = x − η ∇f(x), and p = 1. The paper prints +η; a negative ``step`` is that.

    ``same`` takes ∇f(x) on the update's own mini-batch, with the same dropout masks, which doubles its cost. ``past``
    takes the gradient of the update before (Popov, 1980), which costs a copy of it, also in the checkpoint. Every
    gradient is reduced over workers, and clipped.
    """

    step: float = argument("η", "finite, not 0", lambda value: math.isfinite(value) and value != 0)
    gradient: str = choice("the gradient of the perturbation", "same", "past", default="same")

    def __post_init__(self) -> None:
        self.extra_passes = int(self.gradient == "same")
        self._past: Mapping[nn.Parameter, Tensor] = {}

    def update(self, number: int) -> Update:
        # After load_state_dict fairseq moves the model to its device (fairseq/trainer.py:116).
        self._past = {p: past.to(p) for p, past in self._past.items()}
        return Update(number, (self._ahead(self._past) if self._past else self.whole,))

    def before_step(self, update: Update, take_gradients: Callable[[Point], None]) -> Update:
        if self.gradient == "past":
            return update
        ahead = self._ahead(self.gradients)
        take_gradients(ahead)
        return replace(update, points=(ahead,))

    def after_step(self, update: Update, optimizer: torch.optim.Optimizer) -> None:
        if self.gradient == "past":
            self._past = {p: gradient.clone() for p, gradient in self.gradients.items()}

    def state_dict(self) -> Mapping[str, Any]:
        return {name: self._past[p] for name, p in self.parts.parameters.items() if p in self._past}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.gradient != "past":
            return
        if not state:
            raise ValueError("the checkpoint was not trained with --scheme extragradient and past: it has no gradient")
        self._past = {self.parts.parameters[name]: cast(Tensor, past).clone() for name, past in state.items()}

    def _ahead(self, gradients: Mapping[nn.Parameter, Tensor]) -> MovedPoint:
        return MovedPoint(self.max_level, offset={p: g * -self.step for p, g in gradients.items()})

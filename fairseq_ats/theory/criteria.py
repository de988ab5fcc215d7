r"""Compute the quantities that decide convergence in the paper, from gradients at a point x and a perturbed point x̃.

p is the mask of the update, and f is one function at both points: the loss of a mini-batch. For a network inside the
super-network, x are the parameters of the super-network, p is 1 for the parameters of the network inside and 0 for the
others, and x̃ = p ⊙ x is the super-network with zeros outside the mask, which is the network inside (Algorithm 1 with
δx = -(1 - p) ⊙ x, section 3.1; Algorithm 2, section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_ats.optim.mask import Selection


@dataclass(frozen=True)
class GradientProducts:
    """Four sums over parameters. All criteria follow from them, and the sums of disjoint sets of parameters add up.

    Every criterion is a ratio that does not change when both gradients are scaled alike. So the loss may be a sum over
    tokens or a mean, and a loss scale may stay in the gradients.

    Args:
        full: ‖∇f(x)‖².
        masked: ‖p ⊙ ∇f(x)‖².
        perturbed: ‖p ⊙ ∇f(x̃)‖².
        inner: ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩.
    """

    full: float
    masked: float
    perturbed: float
    inner: float

    def __add__(self, other: GradientProducts) -> GradientProducts:
        return GradientProducts(
            self.full + other.full,
            self.masked + other.masked,
            self.perturbed + other.perturbed,
            self.inner + other.inner,
        )

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(value) for value in (self.full, self.masked, self.perturbed, self.inner))

    @property
    def is_misaligned(self) -> bool:
        """Whether the inner product is negative, so that a step along one gradient goes up along the other."""
        return self.inner < 0

    @property
    def cosine(self) -> float:
        """1 / c_align if that is finite, in [-1, 1]; Figure 3 of the paper plots it."""
        return _ratio(self.inner, self._norms)

    @property
    def c_norm(self) -> float:
        """‖∇f(x)‖ / ‖p ⊙ ∇f(x)‖ ≥ 1: gradient norm preservation against masking (Criterion 1).

        Its square is the gradient overlap of Figure 4a.
        """
        return _ratio(math.sqrt(self.full), math.sqrt(self.masked))

    @property
    def c_sim(self) -> float:
        """‖p ⊙ ∇f(x)‖ / ‖p ⊙ ∇f(x̃)‖: gradient norm preservation against perturbation (Criterion 2, Figure 4b)."""
        return _ratio(math.sqrt(self.masked), math.sqrt(self.perturbed))

    @property
    def c_align(self) -> float:
        """‖p ⊙ ∇f(x)‖ ‖p ⊙ ∇f(x̃)‖ / ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩ ≥ 1: gradient alignment (Criterion 3, Figure 4c).

        Infinite if the inner product is not positive. The quotient would be negative, and so below any bound, although
        there is no alignment at all. The paper does not speak of this case.
        """
        return math.inf if self.inner <= 0 < self._norms else _ratio(self._norms, self.inner)

    @property
    def alpha_t(self) -> float:
        """min{1, ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩ / ‖p ⊙ ∇f(x̃)‖²}: scaling of the step size (Theorem 1).

        Negative if the inner product is negative. Theorem 1 then has no step size.
        """
        unbounded = _ratio(self.inner, self.perturbed)
        return unbounded if math.isnan(unbounded) else min(1.0, unbounded)

    @property
    def q_t(self) -> float:
        """c_norm · max{c_sim, c_align} (Theorem 1): convergence of the whole network takes q⁴ and q² times as long.

        Infinite if c_align is.
        """
        factors = (self.c_norm, self.c_sim, self.c_align)
        return math.nan if any(math.isnan(factor) for factor in factors) else factors[0] * max(factors[1:])

    @property
    def _norms(self) -> float:
        return math.sqrt(self.masked) * math.sqrt(self.perturbed)


def _ratio(numerator: float, denominator: float) -> float:
    """Divide, and over zero return the limit: infinity, or not a number if both are zero."""
    if denominator == 0:
        return math.nan if numerator == 0 else math.copysign(math.inf, numerator)
    return numerator / denominator


def sums_of_products(gradient: Tensor, perturbed: Tensor | None, selected: Selection = True) -> Tensor:
    """Return the four sums of :class:`GradientProducts` of one parameter, in its order: (4,), float64.

    Args:
        gradient: the parameter's part of ∇f(x), of any shape.
        perturbed: its part of ∇f(x̃), of the same shape; None if the mask selects nothing of the parameter.
        selected: what the mask selects of the parameter.
    """
    flat = gradient.flatten().double()
    full = masked = flat @ flat
    if perturbed is None:
        zero = torch.zeros_like(full)
        return torch.stack([full, zero, zero, zero])
    other = perturbed.flatten().double()
    if isinstance(selected, Tensor):
        chosen = selected.expand_as(gradient).flatten()
        flat, other = flat[chosen], other[chosen]
        masked = flat @ flat
    return torch.stack([full, masked, other @ other, flat @ other])

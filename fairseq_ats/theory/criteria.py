r"""The quantities that decide convergence in the paper, from the gradients of a network and of one inside it.

x are the parameters of the super-network, p is the mask of the network inside it (1 for its parameters, 0 for the
others), and x̃ = p ⊙ x is the perturbed point: the super-network with everything outside the mask at zero, which is the
network inside it (Algorithm 1 with δx = -(1 - p) ⊙ x, section 3.1; Algorithm 2, section 3.4). f is one function, the
loss of a mini-batch, at both points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq_ats.optim.mask import Selection


@dataclass(frozen=True)
class GradientProducts:
    """Four sums over parameters, from which all criteria follow; those of disjoint sets of parameters add up.

    Every criterion is a ratio that does not change when both gradients are scaled alike: sums over tokens serve as
    well as means, and a loss scale needs no undoing.

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
        """The inner product is negative: a step along the one gradient goes up along the other."""
        return self.inner < 0

    @property
    def cosine(self) -> float:
        """1 / c_align where that is finite (Figure 3 of the paper plots it), in [-1, 1]."""
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

        Infinite where the inner product is not positive. The quotient would be negative, and below any bound, where
        there is no alignment at all; the paper does not speak of this case.
        """
        return math.inf if self.inner <= 0 < self._norms else _ratio(self._norms, self.inner)

    @property
    def alpha_t(self) -> float:
        """min{1, ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩ / ‖p ⊙ ∇f(x̃)‖²}: scaling of the step size (Theorem 1).

        Negative where the inner product is: Theorem 1 then has no step size.
        """
        unbounded = _ratio(self.inner, self.perturbed)
        return unbounded if math.isnan(unbounded) else min(1.0, unbounded)

    @property
    def q_t(self) -> float:
        """c_norm · max{c_sim, c_align} (Theorem 1): convergence of the whole network takes q⁴ and q² times as long.

        Infinite where c_align is.
        """
        factors = (self.c_norm, self.c_sim, self.c_align)
        return math.nan if any(math.isnan(factor) for factor in factors) else factors[0] * max(factors[1:])

    @property
    def _norms(self) -> float:
        return math.sqrt(self.masked) * math.sqrt(self.perturbed)


def _ratio(numerator: float, denominator: float) -> float:
    """As the limit: infinite over zero, and not a number where both are zero."""
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

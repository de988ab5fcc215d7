r"""Compute the paper's convergence criteria from the gradients at a point x and at a perturbed point x̃.

p is the mask of the update. f is the loss of a mini-batch, and it is the same function at both points.

For a network inside the super-network, x holds the parameters of the super-network. p is 1 for the parameters of the
inner network and 0 for all others. x̃ = p ⊙ x is the super-network with zeros outside the mask, which equals the inner
network (Algorithm 1 with δx = -(1 - p) ⊙ x, section 3.1; Algorithm 2, section 3.4).
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from fairseq_ats.optim.mask import Selection


@dataclass(frozen=True)
class GradientProducts:
    """Sums over parameters that determine all criteria. Sums over disjoint sets of parameters can be added.

    Every criterion is a ratio that does not change if both gradients are multiplied by the same factor. The loss may
    therefore be a sum or a mean over tokens, and the gradients may contain a loss scale. Only :attr:`perturbation` and
    :attr:`smoothness` change.

    Args:
        full: ‖∇f(x)‖².
        masked: ‖p ⊙ ∇f(x)‖².
        perturbed: ‖p ⊙ ∇f(x̃)‖².
        inner: ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩.
        distance: ‖δx‖².
    """

    full: float
    masked: float
    perturbed: float
    inner: float
    distance: float = 0.0

    def __add__(self, other: GradientProducts) -> GradientProducts:
        return GradientProducts(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, astuple(self)))

    @property
    def is_misaligned(self) -> bool:
        """Whether the inner product is negative: a step that descends along one gradient ascends along the other."""
        return self.inner < 0

    @property
    def cosine(self) -> float:
        """The cosine of the masked gradients, in [-1, 1]. It is 1 / c_align if c_align is finite; Figure 3 plots it."""
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

        It is infinite if the inner product is zero or negative: a negative quotient would satisfy any upper bound
        although the gradients are not aligned. This case is not in the paper.
        """
        return math.inf if self.inner <= 0 < self._norms else _ratio(self._norms, self.inner)

    @property
    def alpha_t(self) -> float:
        """min{1, ⟨p ⊙ ∇f(x), p ⊙ ∇f(x̃)⟩ / ‖p ⊙ ∇f(x̃)‖²}: scaling of the step size (Theorem 1).

        It is negative if the inner product is negative. Theorem 1 then has no step size.
        """
        unbounded = _ratio(self.inner, self.perturbed)
        return unbounded if math.isnan(unbounded) else min(1.0, unbounded)

    @property
    def q_t(self) -> float:
        """c_norm · max{c_sim, c_align} (Theorem 1): convergence of the whole network takes q⁴ and q² times as long.

        It is infinite if c_align is infinite.
        """
        factors = (self.c_norm, self.c_sim, self.c_align)
        return math.nan if any(math.isnan(factor) for factor in factors) else factors[0] * max(factors[1:])

    @property
    def grad_change(self) -> float:
        """Δ_t = ‖p ⊙ (∇f(x) − ∇f(x̃))‖ / max{‖p ⊙ ∇f(x)‖, ‖p ⊙ ∇f(x̃)‖}. Not in the paper.

        By the triangle inequality Δ_t < ½ gives c_sim < 2 and c_align < 2/√3. Assumption 3 implies it, so these are the
        bounds of Lemma 2. Its printed c_sim ≤ √10/2 does not hold: the proof divides by ‖p ⊙ ∇f(x̃)‖ where (4) has a
        maximum. For f = x²/2 and δx = −0.49x, (4) holds and c_sim is 1.96.
        """
        return _ratio(self._change, self._larger)

    @property
    def perturbation(self) -> float:
        """‖δx‖ / max{‖p ⊙ ∇f(x)‖, ‖p ⊙ ∇f(x̃)‖}: the left side of (4), Assumption 3, whose right side is 1/(2L)."""
        return _ratio(math.sqrt(self.distance), self._larger)

    @property
    def smoothness(self) -> float:
        """‖p ⊙ (∇f(x) − ∇f(x̃))‖ / ‖δx‖ ≤ L: the smoothness along δx. With it for L, (4) says Δ_t < ½."""
        return _ratio(self._change, math.sqrt(self.distance))

    @property
    def _change(self) -> float:
        return math.sqrt(max(0.0, self.masked + self.perturbed - 2 * self.inner))

    @property
    def _larger(self) -> float:
        return math.sqrt(max(self.masked, self.perturbed))

    @property
    def _norms(self) -> float:
        return math.sqrt(self.masked) * math.sqrt(self.perturbed)


def _ratio(numerator: float, denominator: float) -> float:
    """Return ``numerator / denominator``. If the denominator is 0, return ±infinity, or NaN for 0 / 0."""
    if denominator == 0:
        return math.nan if numerator == 0 else math.copysign(math.inf, numerator)
    return numerator / denominator


def sums_of_products(gradient: Tensor, perturbed: Tensor | None, selected: Selection = True) -> Tensor:
    """Return the four sums of one parameter, in the order of the fields of :class:`GradientProducts`: (4,), float64.

    Args:
        gradient: the parameter's part of ∇f(x), of any shape.
        perturbed: the parameter's part of ∇f(x̃), of the same shape; None if the mask selects no entry of the parameter.
        selected: the entries of the parameter that the mask selects.
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


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the squared distance of two values of a parameter, (1,), float64."""
    return (one.double() - other.double()).square().sum().view(1)

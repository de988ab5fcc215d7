"""Train a random part of the network in each update: dropout as Algorithm 1 of the paper has it (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor, nn

from fairseq_ats.architectures.parts import NeuronGroup
from fairseq_ats.optim.mask import ElementMask
from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update
from fairseq_ats.schemes.points import MovedPoint, OfParameters, Point, UnitsPoint


@dataclass(eq=False)
class Dropout(SchemeOfParts):
    r"""x̃ = s ⊙ x, with s drawn once an update, and p = (s > 0).

    Each neuron is kept with probability μ, with all that it owns, and at least one of each group; or each weight of a
    linear layer. Embeddings, norms and the biases that no neuron owns are always kept. In the paper s is 0 or 1
    (``exact``). ``inverted`` multiplies by 1/μ what is kept, once a term of a sum, so that sums keep their expectation.
    The gradient is then :math:`s \odot \nabla f(\tilde{x})`.

    This is not fairseq's ``--dropout``, which draws for each token, acts on activations, and masks no optimizer state.
    The paper says "with probability μ" and means to keep. Its E ‖∇f‖² / ‖p ⊙ ∇f‖² = 1/μ holds for the inverse, E ‖p ⊙
    ∇f‖² = μ ‖∇f‖²; the expectation of the quotient is larger.
    """

    keep_prob: float = argument("probability to keep", "0 < keep_prob <= 1", lambda value: 0 < value <= 1)
    unit: str = choice("what is kept or not", "neuron", "weight", default="neuron")
    scale: str = choice("whether what is kept is scaled", "exact", "inverted", default="exact")

    perturbs_validation = True
    typical_updates = range(8)

    @property
    def needs_neurons(self) -> bool:
        return self.unit == "neuron"

    def update(self, number: int) -> Update:
        return self._drawn(self.draws, number)

    def validation_points(self, count: int) -> tuple[Point, ...]:
        draws = replace(self.draws, purpose="validation")
        return tuple(self._drawn(draws, number).points[0] for number in range(count))

    def _drawn(self, draws: Draws, number: int) -> Update:
        if self.keep_prob == 1:
            return Update(number, (self.whole,))
        factor = 1 / self.keep_prob if self.scale == "inverted" else 1.0
        if self.unit == "neuron":
            groups = [*self.parts.hidden, *self.parts.keys]
            kept = [(group, draws.kept(self.keep_prob, group.size, number, group.name)) for group in groups]
            point, scales = neuron_point(self.max_level, kept, factor)
        else:
            weights = self.parts.weights.items()
            scales = {p: draws.kept(self.keep_prob, p.shape, number, name).to(p) * factor for name, p in weights}
            point = MovedPoint(self.max_level, scales)
        return Update(number, (point,), ElementMask({p: scale > 0 for p, scale in scales.items()}))


def neuron_point(
    level: int, kept: Sequence[tuple[NeuronGroup, Tensor]], factor: float = 1.0
) -> tuple[Point, dict[nn.Parameter, Tensor]]:
    """Return the point at which each group has some of its neurons alone, and its scales s.

    Args:
        kept: which neurons of each group, (neurons,), bool.
        factor: what the terms of these neurons are multiplied by.
    """
    return scaled_neuron_point(level, [(group, chosen, 1.0, factor) for group, chosen in kept])


def scaled_neuron_point(
    level: int, kept: Sequence[tuple[NeuronGroup, Tensor, float, float]], shift: OfParameters = MappingProxyType({})
) -> tuple[Point, dict[nn.Parameter, Tensor]]:
    """Return the point at which what some neurons own is scaled, and what the others own is zero; and its scales s.

    It runs these neurons alone where that is the same.

    Args:
        kept: which neurons of each group, (neurons,), bool, and the factors of what enters them and of what leaves.
        shift: v of :class:`~fairseq_ats.schemes.points.MovedPoint`.
    """
    scales: dict[nn.Parameter, Tensor] = {}
    units = {}
    for group, chosen, entering, leaving in kept:
        for owned in group.owned:
            scale = owned.spread(chosen).to(owned.parameter.dtype) * (leaving if owned.leaves else entering)
            scales[owned.parameter] = scales[owned.parameter] * scale if owned.parameter in scales else scale
        for layer, leaves in group.layers:
            units[layer] = (chosen.nonzero().flatten(), leaving if leaves else entering)
    point = MovedPoint(level, scales, shift)
    has_shorter_way = not shift and all(group.layers and chosen.any() for group, chosen, *_ in kept)
    return UnitsPoint(point, units) if has_shorter_way else point, scales

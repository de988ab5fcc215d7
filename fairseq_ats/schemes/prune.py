"""Train a network of which ever more is pruned, and the part that is left is the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairseq_ats.optim.mask import EVERYTHING, ElementMask
from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.draws import largest
from fairseq_ats.schemes.dropout import neuron_point
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update
from fairseq_ats.schemes.points import MovedPoint, Point


@dataclass(eq=False)
class Prune(SchemeOfParts):
    """x̃ = s ⊙ x, where s is 1 for the largest: weights of linear layers by magnitude, or hidden neurons by importance.

    The share that is pruned rises from update ``begin`` to ``end`` as s (1 − (1 − (t − begin) / (end − begin))³) (Zhu
    and Gupta, 2017). All weights compete; of neurons each layer loses the same share, so that a network with smaller
    layers is left. With ``feedback`` ∇f(x̃) moves all of x, so that what was pruned can return (Lin et al., 2020).
    Without, p = s.

    A neuron with zeros on both sides has a gradient of zero on both sides, and would never return. With feedback x̃
    therefore has its zeros where the value leaves the neuron, which is the same function.
    """

    sparsity: float = argument("share that is pruned in the end", "0 <= sparsity < 1", lambda value: 0 <= value < 1)
    end: int = argument("update of the last rise", "more than begin", lambda value: value >= 1)
    begin: int = argument("update of the first rise", "0 or more", lambda value: value >= 0, default=0)
    every: int = argument("updates between two choices", "1 or more", lambda value: value >= 1, default=16)
    unit: str = choice("what is pruned", "neuron", "weight", default="neuron")
    feedback: bool = argument("whether what is pruned is trained on", default=True)

    perturbs_validation = True
    validated_points = 1

    def __post_init__(self) -> None:
        self._kept: Mapping[str, Tensor] = {}

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        begin, end = arguments.get("begin", 0), arguments["end"]
        return [f"--scheme-args has end {end}; allowed: more than begin ({begin})"] if end <= begin else []

    @property
    def needs_neurons(self) -> bool:
        return self.unit == "neuron"

    @property
    def typical_updates(self) -> Sequence[int]:
        return (-(-self.end // self.every) * self.every,)

    def sparsity_at(self, number: int) -> float:
        """Return the share that is pruned from the update of this number on."""
        progress = min(max((number - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return self.sparsity * (1 - (1 - progress) ** 3)

    def update(self, number: int) -> Update:
        if number % self.every == 0:
            self._kept = self._largest(1 - self.sparsity_at(number))
        pruned, scales = self._pruned()
        if not self.feedback:
            return Update(number, (pruned,), ElementMask({p: scale > 0 for p, scale in scales.items()}))
        if self.unit == "neuron":
            scales = {one.parameter: scales[one.parameter] for g in self.parts.hidden for one in g.owned if one.leaves}
        return Update(number, (MovedPoint(self.max_level, scales, scales_gradient=False),), EVERYTHING)

    def validation_points(self, count: int) -> tuple[Point, ...]:
        return (self._pruned()[0],) if count and self._kept else ()

    @property
    def is_final(self) -> bool:
        kept = sum(int(chosen.sum()) for chosen in self._kept.values())
        return kept == sum(self._counts(1 - self.sparsity).values())

    def state_dict(self) -> Mapping[str, Any]:
        return self._kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:
            raise ValueError("the checkpoint was not trained with --scheme prune: it does not say what is pruned")
        pruned = self.parts.weights.keys() if self.unit == "weight" else {group.name for group in self.parts.hidden}
        if state.keys() != pruned:
            raise ValueError(f"--scheme-args has unit {self.unit}, and the checkpoint's run pruned other parts of it")
        self._kept = {name: kept.clone() for name, kept in state.items()}

    def _counts(self, share: float) -> dict[str, int]:
        """Return how many are kept of each group that competes."""
        if self.unit == "weight":
            return {"weights": round(share * sum(p.numel() for p in self.parts.weights.values()))}
        return {group.name: max(1, round(share * group.size)) for group in self.parts.hidden}

    def _largest(self, share: float) -> dict[str, Tensor]:
        counts = self._counts(share)
        if self.unit == "weight":
            return largest(self.parts.weights, counts["weights"])
        kept: dict[str, Tensor] = {}
        for group in self.parts.hidden:
            kept |= largest({group.name: group.importance()}, counts[group.name])
        return kept

    def _pruned(self) -> tuple[Point, dict[Any, Tensor]]:
        """Return x̃ with zeros for all that is pruned, and s."""
        if self.unit == "neuron":
            return neuron_point(self.max_level, [(group, self._kept[group.name]) for group in self.parts.hidden])
        scales = {p: self._kept[name].to(p.device) for name, p in self.parts.weights.items()}
        return MovedPoint(self.max_level, scales), scales

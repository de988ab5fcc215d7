"""Train the mean of a model's sparsified versions: MAST (Demidovich et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.dropout import scaled_neuron_point
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update
from fairseq_ats.schemes.points import MovedPoint, OfParameters, Point
from fairseq_ats.schemes.sketches import KINDS, Sketches


@dataclass(eq=False)
class Mast(SchemeOfParts):
    r"""x̃ = v + S (x − v) with a random sketch S, E[S] = I; all of x moves.

    .. math:: \min_x f_D(x) = E_S f(v + S (x - v)), \qquad
        g = \frac{1}{M} \sum_{i=1}^{M} S_i^\top \nabla f_i(v + S_i (x - v))

    Each of the M micro-batches of all workers has a sketch of its own. g is an unbiased gradient of :math:`f_D` (arXiv
    2311.16086), and a zero in it is a value and not "left alone": the optimizer is not masked. S is diagonal, over the
    weights of linear layers, or over neurons with all that each owns. Everything else has s = 1. The shift v is zero,
    or the weights with which the run began: then the start is the pretrained model whatever S is.

    With variance reduction there are N sketches, drawn once, and an update has one of them, S, for all workers. It
    removes the variance of sketches, and not that of mini-batches. ``l-svrg``: :math:`h = \nabla f_S(x) - \nabla f_S(w)
    + H`; with probability p an update ends with w ← x and H ← the mean gradient over the N sketches. ``page``: with
    probability p h is that mean, otherwise the last h plus :math:`\nabla f_S(x_t) - \nabla f_S(x_{t-1})`.
    """

    sketch: str = choice("distribution of S", *KINDS, default="bernoulli")
    keep_prob: float = argument("q", "0 < keep_prob <= 1", lambda value: 0 < value <= 1, default=0.5)
    batches: int = argument("K of a permutation", "workers * update-freq", lambda value: value >= 1, default=1)
    unit: str = choice("coordinates of S", "neuron", "weight", default="neuron")
    shift: str = choice("v", "zero", "start", default="zero")
    variance_reduction: str = choice("of sketches", "none", "l-svrg", "page", default="none")
    sketches: int = argument("N, with variance reduction", "2 or more", lambda value: value >= 2, default=8)
    refresh: float = argument("p, with variance reduction", "0 < p <= 1", lambda value: 0 < value <= 1, default=0.125)

    perturbs_validation = True
    typical_updates = range(8)

    def __post_init__(self) -> None:
        p, count = self.refresh, self.sketches
        passes = {"none": 1.0, "l-svrg": 2 + p * (count - 1), "page": 2 * (1 - p) + p * count}
        self.extra_passes = passes[self.variance_reduction] - 1
        # v; w, or x of the update before; H, or the last h.
        self._kept: dict[str, OfParameters] = {"shift": {}, "anchor": {}, "estimate": {}}

    @classmethod
    def problems(cls, arguments: Mapping[str, Any]) -> list[str]:
        permutes, reduces = arguments.get("sketch") == "permutation", "variance_reduction" in arguments
        for is_wrong, problem in (
            (permutes != ("batches" in arguments), "batches goes with sketch permutation, and is needed there"),
            (permutes and "keep_prob" in arguments, "keep_prob is 1 / batches with sketch permutation; leave it out"),
            (
                permutes and reduces,
                "with variance_reduction all micro-batches have one sketch; allowed: no permutation",
            ),
            (
                not reduces and bool({"sketches", "refresh"} & arguments.keys()),
                "sketches and refresh go with variance_reduction",
            ),
        ):
            if is_wrong:
                return [f"--scheme-args: {problem}"]
        return []

    @property
    def needs_neurons(self) -> bool:
        return self.unit == "neuron"

    @property
    def adds_gradients(self) -> bool:
        """Whether a step is by a sum of gradients at several points."""
        return self.variance_reduction != "none"

    def update(self, number: int) -> Update:
        # After load_state_dict fairseq moves the model to its device (fairseq/trainer.py:116).
        self._kept = {what: {p: value.to(p) for p, value in kept.items()} for what, kept in self._kept.items()}
        if self.shift == "start" and not self._kept["shift"]:  # by now the weights of --restore-file are loaded, too
            self._kept["shift"] = _copies(self.parts.parameters.values())
        if self.adds_gradients:
            return Update(number, (self._fixed(self._chosen(number)),))
        return Update(number, (self._point(self.draws, number),))

    def points_of(self, update: Update, batch: int) -> Sequence[Point]:
        is_common = batch == 0 or self.adds_gradients
        return update.points if is_common else (self._point(self.draws, update.number, batch),)

    def before_step(self, update: Update, take_gradients: Callable[[Point], None]) -> Update:
        """Replace the gradients by the estimate whose variance over sketches is smaller."""
        if not self.adds_gradients:
            return update
        number, own, past = update.number, self.gradients, self._kept["anchor"]
        drawn = float(torch.rand((), generator=self.draws.generator(number, "refresh")))
        # A parameter that was frozen until now has no estimate to go on from.
        begins = not own.keys() <= self._kept["estimate"].keys()
        is_page, refreshes = self.variance_reduction == "page", begins or drawn < self.refresh
        if refreshes:
            mean = estimate = self._mean(own, self._chosen(number), take_gradients)
        if not (begins or (is_page and refreshes)):
            take_gradients(replace(self._fixed(self._chosen(number)), base=past))
            there, added = self.gradients, self._kept["estimate"]
            estimate = {p: g - there[p] + added[p] for p, g in own.items()}
        if is_page or refreshes:
            self._kept["anchor"] = _copies(self.parts.parameters.values())
            self._kept["estimate"] = mean if refreshes else estimate
        for p, g in estimate.items():
            cast(Tensor, p.grad).copy_(g)
        return update

    def validation_points(self, count: int) -> tuple[Point, ...]:
        draws = replace(self.draws, purpose="validation")
        return tuple(self._point(draws, number, number) for number in range(count))

    def state_dict(self) -> Mapping[str, Any]:
        names = {p: name for name, p in self.parts.parameters.items()}
        return {f"{what}:{names[p]}": value for what, values in self._kept.items() for p, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        needed = {"shift": self.shift == "start", "anchor": self.adds_gradients, "estimate": self.adds_gradients}
        for what in (what for what, is_needed in needed.items() if is_needed):
            found = {name: state[key] for name in self.parts.parameters if (key := f"{what}:{name}") in state}
            if not found:
                raise ValueError(
                    f"the checkpoint was not trained with these arguments of --scheme mast: no {what} in it"
                )
            self._kept[what] = {self.parts.parameters[name]: value for name, value in found.items()}

    def _chosen(self, number: int) -> int:
        return int(torch.randint(self.sketches, (), generator=self.draws.generator(number, "sketch")))

    def _fixed(self, index: int) -> MovedPoint:
        """Return x̃ of one of the N sketches, at which dropout draws as it does for the others."""
        return cast(MovedPoint, self._point(replace(self.draws, purpose="sketches"), index).reference)

    def _mean(
        self, own: OfParameters, chosen: int, take_gradients: Callable[[Point], None]
    ) -> dict[nn.Parameter, Tensor]:
        """Return the mean gradient over the N sketches, of which one is known."""
        total = {p: g.clone() for p, g in own.items()}
        for index in set(range(self.sketches)) - {chosen}:
            take_gradients(self._fixed(index))
            for p, g in self.gradients.items():
                total[p] += g
        return {p: g / self.sketches for p, g in total.items()}

    def _point(self, draws: Draws, number: int, batch: int = 0) -> Point:
        """Draw S for a micro-batch, and return x̃; by the neurons that are kept alone where that is the same."""
        sketches = Sketches(self.sketch, self.keep_prob, self.batches)
        if self.unit == "weight":
            scales: dict[nn.Parameter, Tensor] = {}
            for name, p in self.parts.weights.items():
                kept, factor = sketches.drawn(draws, p.numel(), number, batch, name)
                scales[p] = kept.view(p.shape).to(p) * factor
            return MovedPoint(self.max_level, scales, self._kept["shift"])
        kept_of = []
        for group in [*self.parts.hidden, *self.parts.keys]:
            kept, factor = sketches.drawn(draws, group.size, number, batch, group.name)
            kept_of.append((group, kept, factor, factor))
        return scaled_neuron_point(self.max_level, kept_of, self._kept["shift"])[0]


def _copies(parameters: Iterable[nn.Parameter]) -> OfParameters:
    return {p: p.detach().clone() for p in parameters}

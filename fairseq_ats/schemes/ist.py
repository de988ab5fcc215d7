"""Train independent subnets (IST, Yuan et al.): each worker trains a random part of the neurons for some updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.host.workers import ALONE, Workers
from fairseq_ats.optim.mask import EVERYTHING, ElementMask, Mask
from fairseq_ats.optim.unreduced import is_reduced, leave_unreduced
from fairseq_ats.schemes.arguments import argument, choice
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.dropout import neuron_point
from fairseq_ats.schemes.exchange import Exchange
from fairseq_ats.schemes.partial_sgd import Comparison, SchemeOfParts, Update
from fairseq_ats.schemes.points import Point

SHARED_PARAMETERS = ("synchronous", "local", "fixed")

_PRIORITY = 410  # beside gnorm, which fairseq logs with priority 400


@dataclass(frozen=True, eq=False)
class PartPoint(Point):
    """One part of the neurons; the gradients of what neurons own count ``weight`` times.

    Args:
        point: where the other neurons are zero.
        scales: s of that point, of each parameter that neurons own.
    """

    point: Point
    scales: Mapping[nn.Parameter, Tensor]
    weight: float

    @property
    def level(self) -> int:  # type: ignore[override]  # a field of other points
        return self.point.level

    @property
    def reference(self) -> Point:
        return self.point.reference

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        with self.point.of(model), ExitStack() as hooks:
            for p in self.scales if self.weight != 1 else ():
                if p.requires_grad:
                    hooks.callback(p.register_hook(lambda gradient: gradient * self.weight).remove)
            yield


@dataclass(eq=False)
class Ist(SchemeOfParts):
    r"""x̃_k = s_k ⊙ x for each of K disjoint parts of the neurons, each with a micro-batch of its own; p = 1.

    A *round* has H updates. In round ⌊t / H⌋ the neurons of each group are divided at random into K parts. Part k
    belongs to the update's micro-batch k = micro-batch · workers + rank, so that K workers with a part each do what one
    worker does with ``--update-freq K``. This is the paper's interleaving p₁, p₂, ...: what a part owns is not read by
    the others, so their order and place do not matter.

    What neurons own moves by the gradient of the one part that computes it, :math:`K s_k \odot \nabla f_k(\tilde{x}_k)
    / \sum_j n_j`: a mean over its own micro-batch, if all have equal sizes n. What no neuron owns (embeddings, norms,
    values, outputs) is *shared*; the paper does not say what happens to it. ``synchronous`` moves it by the mean over
    all parts, as ordinary workers do. With ``local`` each worker trains a copy, and the copies are averaged when parts
    are exchanged. ``fixed`` leaves it as it is.

    Several workers reduce no gradient of what neurons own (:mod:`fairseq_ats.optim.unreduced`). At a round's end, and
    before a validation or a save, they exchange weights and moments. In between a worker's optimizer also drifts what
    others own; nobody reads that, and the exchange replaces it.

    ``inverted`` multiplies by K what leaves a part's neurons, once a term, so that the sums of the whole network are in
    expectation those of training.
    """

    count: int = argument("K, the number of parts", "2 or more", lambda value: value >= 2, option="--parts")
    local_updates: int = argument(
        "H, updates of a round", "1 or more", lambda value: value >= 1, default=20, option="--local-updates"
    )
    shared_parameters: str = choice(
        "how what no neuron owns moves", *SHARED_PARAMETERS, default="synchronous", option="--shared-parameters"
    )
    scale: str = choice("whether what a part computes is scaled", "inverted", "exact", default="inverted")

    needs_neurons = True
    perturbs_validation = True

    def __post_init__(self) -> None:
        self._round: tuple[int, Sequence[Tensor], tuple[PartPoint, ...]] | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._in_update = self._is_divided = False

    def attach(self, parts: ModelParts, draws: Draws, workers: Workers = ALONE) -> None:
        """Take the model's parts, and mark what is not reduced over workers.

        Raises:
            ValueError: as for other schemes, or there are more parts than neurons.
        """
        super().attach(parts, draws, workers)
        self._groups = [*parts.hidden, *parts.keys]
        smallest = min(self._groups, key=lambda group: group.size)
        if self.count > smallest.size:
            raise ValueError(
                f"--parts is {self.count}; allowed: 2 to {smallest.size}, the number of neurons of {smallest.name}"
            )
        owned = [one for group in self._groups for one in group.owned]
        of_neurons = {one.parameter for one in owned}
        self._shared = [p for p in parts.parameters.values() if p not in of_neurons]
        is_local = self.shared_parameters == "local"
        self._mask: Mask = EVERYTHING
        if self.shared_parameters == "fixed":
            self._mask = ElementMask(dict.fromkeys(self._shared, False))
        if workers.count > 1:
            leave_unreduced(of_neurons, 1.0)
            leave_unreduced(self._shared if is_local else (), 1 / workers.count)
        self._exchange = Exchange(workers, owned, self._shared if is_local else ())

    def update(self, number: int) -> Update:
        turn = number // self.local_updates
        if self._round is None or self._round[0] != turn:
            self._round = (turn, *self._divided(self.draws, turn))
        return Update(number, self._round[2], self._mask)

    def points_of(self, update: Update, batch: int) -> Sequence[Point]:
        self._in_update = True
        return (update.points[batch],)

    def after_step(self, update: Update, optimizer: torch.optim.Optimizer) -> None:
        """Exchange the parts at the end of a round, and log what was sent."""
        if self.workers.count == 1:
            return
        # fairseq calls this on all workers before each save (fairseq/checkpoint_utils.py:50).
        optimizer.consolidate_state_dict = self.make_whole  # type: ignore[attr-defined]
        self._optimizer, self._in_update, self._is_divided = optimizer, False, True
        if (update.number + 1) % self.local_updates == 0:
            self.make_whole()
        self._exchange.reduced([p for p in self._shared if p.requires_grad and is_reduced(p)])
        metrics.log_scalar("sent_mb", self._exchange.sent / 1e6, priority=_PRIORITY, round=3)
        self._exchange.sent = 0.0

    def make_whole(self) -> None:
        """Exchange the parts, if some worker lacks what others have trained.

        Within an update only one worker may ask, before it writes crash.pt (fairseq/trainer.py:870 and :989), and the
        others would not answer.
        """
        if self._is_divided and not self._in_update:
            assert self._round is not None  # there was an update
            assert self._optimizer is not None
            self._exchange(self._optimizer, self._round[1])
            self._is_divided = False

    def state_dict(self) -> Mapping[str, Any]:
        """Return how much was sent before this save, and is not logged yet."""
        return {"sent": self._exchange.sent} if self._exchange.sent else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._exchange.sent = state.get("sent", 0.0)

    def comparisons(self, update: Update) -> tuple[Comparison, ...]:
        """Return the first part, and what its neurons own with what is shared."""
        first, *_ = update.points
        assert isinstance(first, PartPoint)
        return (Comparison(0, first.reference, ElementMask({p: scale > 0 for p, scale in first.scales.items()})),)

    def validation_points(self, count: int) -> tuple[Point, ...]:
        draws = replace(self.draws, purpose="validation")
        return tuple(self._divided(draws, number)[1][0] for number in range(count))

    def _divided(self, draws: Draws, turn: int) -> tuple[list[Tensor], tuple[PartPoint, ...]]:
        """Return which worker has each row or column of what neurons own, and the points of all parts."""
        divided = [(group, draws.divided(self.count, group.size, turn, group.name)) for group in self._groups]
        factor = self.count if self.scale == "inverted" else 1.0
        points = [
            neuron_point(self.max_level, [(group, part_of == part) for group, part_of in divided], factor)
            for part in range(self.count)
        ]
        # fairseq divides by the sizes of all micro-batches, and multiplies by the workers (fairseq/trainer.py:936).
        weight = self.count / self.workers.count
        ranks = [(part_of % self.workers.count)[one.owner] for group, part_of in divided for one in group.owned]
        return ranks, tuple(PartPoint(point, scales, weight) for point, scales in points)

r"""Distil in place: smaller networks learn from the super-network's soft targets while both are trained.

.. math:: L_\text{level} = (1 - \lambda)\, C + \lambda\, T^2 \sum_\text{tokens} \mathrm{KL}(p \,\|\, q), \qquad
    p = \mathrm{softmax}(z_\text{super} / T), \quad q = \mathrm{softmax}(z_\text{level} / T)

C is the criterion's loss and z are logits. The sum is over the targets that the criterion counts. No gradient flows
into p. This is not in the paper. In-place distillation comes from Yu and Huang ("Universally slimmable networks", ICCV
2019), with λ = 1 and T = 1. The temperature, and the factor T² that keeps the size of gradients, come from Hinton et
al. ("Distilling the knowledge in a neural network", 2015).

If the super-network runs in the same update (slimmable), p comes from that pass, dropout included, as in Yu and Huang;
this costs no forward pass. In a core update of an alternating training p comes from one more forward pass, without
gradient. There dropout is off, as in Xie et al. ("Self-training with noisy student", CVPR 2020), where the student is
noised and the teacher is not, and the core's own pass draws the random numbers that it draws without distillation. In
both cases p stays in memory until the smaller networks have run: a float32 for each target position and entry of the
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ats.modules.levels import use_level
from fairseq_ats.partition.names import DISTILLATION, Networks
from fairseq_ats.schemes.partial_sgd import Update
from fairseq_ats.training.metrics import outputs_by_level
from fairseq_ats.training.precision import in_autocast

# A criterion as FairseqTask.train_step calls it. It returns loss, sample size and logging output.
Criterion = Callable[[nn.Module, dict[str, Any]], tuple[Tensor, Any, dict[str, Any]]]

_COUNTED = f"{DISTILLATION}_tokens"

# Which targets the criterion counts in its loss: targets and criterion → a bool tensor of the targets' shape.
Counted = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Distillation:
    """In-place distillation in one run.

    Args:
        weight: λ, 0 < λ ≤ 1.
        temperature: T > 0.
        highest: the super-network's level, or that of the largest network.
        counted: which targets count.
        start: the number of the first update that is distilled.
        autocast: as in :func:`~fairseq_ats.training.precision.in_autocast`.
    """

    weight: float
    temperature: float
    highest: int
    counted: Counted
    start: int = 0
    autocast: str | None = None

    def teacher(self, model: nn.Module, sample: dict[str, Any], update: Update) -> Teacher | None:
        """Return the teacher of an update's smaller networks; None if it has none.

        The teacher has its soft targets already if the super-network does not run in the update. Otherwise it takes
        them from the super-network's pass.
        """
        if not self.teaches(update):
            return None
        teacher = Teacher(self)
        if self.highest not in update.levels:
            with use_level(model, self.highest):
                teacher.predict(model, sample)
        return teacher

    def teaches(self, update: Update) -> bool:
        """Return whether some network of an update has a teacher."""
        return update.number >= self.start and min(update.levels) != self.highest

    def log_softmax(self, model: Any, net_output: Any) -> Tensor:
        """Return log softmax(z / T) of a model's output: (batch, target, vocabulary), in float32 at least.

        The model's own log-probabilities differ from z by a constant for each token.
        """
        log_probabilities = model.get_normalized_probs(net_output, log_probs=True)
        if self.temperature == 1.0:
            return log_probabilities
        return (log_probabilities / self.temperature).log_softmax(-1)


class Teacher:
    """Soft targets of the super-network for one mini-batch, and the loss of a smaller network on them."""

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation
        self._probabilities: Tensor  # p: (batch, target, vocabulary)
        self._entropy: Tensor  # of p: (batch, target)

    def predict(self, model: nn.Module, sample: dict[str, Any]) -> None:
        """Take the soft targets from a forward pass of their own, at the level at which ``model`` is.

        The model is left without dropout; fairseq's ``train_step`` switches it on (fairseq/tasks/fairseq_task.py:528).
        With ``--amp`` the pass is in float32, as a validation is.
        """

        def forward(model: nn.Module, sample: dict[str, Any]) -> Any:
            return model(**sample["net_input"])

        model.eval()
        # LayerDrop draws numbers even without dropout (fairseq/modules/layer_drop.py:41), on the CPU on every device.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self._remember(model, in_autocast(forward, self.distillation.autocast)(model, sample))

    def criterion_for(self, level: int, criterion: Criterion) -> Criterion:
        """Wrap ``criterion`` for the pass of ``level``: take its soft targets, or mix them into its loss."""
        return self._recording(criterion) if level == self.distillation.highest else self._distilling(criterion)

    def _recording(self, criterion: Criterion) -> Criterion:
        """Wrap ``criterion`` so that its pass also records the super-network's soft targets."""

        def forward(model: nn.Module, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
            result, net_output = _with_output(criterion, model, sample)
            with torch.no_grad():
                self._remember(model, net_output)
            return result

        return forward

    def _distilling(self, criterion: Criterion) -> Criterion:
        """Wrap ``criterion`` of a smaller network: mix in the soft targets, and log the criterion's own loss."""
        weight, temperature = self.distillation.weight, self.distillation.temperature

        def forward(model: Any, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
            (loss, sample_size, logging_output), net_output = _with_output(criterion, model, sample)
            counted = self.distillation.counted(model.get_targets(sample, net_output), criterion)
            divergence = self._divergence(self.distillation.log_softmax(model, net_output), counted)
            mixed = (1 - weight) * loss + weight * temperature**2 * divergence
            logged = {DISTILLATION: divergence.detach(), _COUNTED: counted.sum()}
            return mixed, sample_size, logging_output | logged

        return forward

    def _remember(self, model: nn.Module, net_output: Any) -> None:
        self._probabilities = self.distillation.log_softmax(model, net_output).exp()
        self._entropy = torch.special.entr(self._probabilities).sum(-1)

    def _divergence(self, log_q: Tensor, counted: Tensor) -> Tensor:
        """Return KL(p ‖ q) summed over the counted targets, in nats: the cross-entropy without the entropy of p."""
        divergence = -(self._probabilities * log_q).sum(-1) - self._entropy
        return divergence.masked_fill(~counted, 0.0).sum()


def check_distilled(model_options: Any, weight: float) -> None:
    """Refuse a model whose log-probabilities have no gradient.

    fairseq computes those of an adaptive softmax in place (fairseq/modules/adaptive_softmax.py:256); its loss does
    without them.

    Args:
        model_options: fairseq's, as ``task.build_model`` gets them.
        weight: ``--distillation-weight``, above 0.

    Raises:
        ValueError: the model has an adaptive softmax.
    """
    cutoff = getattr(model_options, "adaptive_softmax_cutoff", None)
    if cutoff is not None:
        raise ValueError(
            f"--distillation-weight is {weight} and --adaptive-softmax-cutoff is {cutoff}; probabilities of all words, "
            "as distillation compares, have no gradient there; leave one of them out"
        )


def log_distillation(logging_outputs: Sequence[dict[str, Any]], networks: Networks) -> None:
    """Log KL(p ‖ q) per target token, in bits as fairseq's losses, for each network that was distilled."""
    by_level = outputs_by_level(networks, logging_outputs)
    for level in networks.lower_levels:
        name = networks.metric_name(level, DISTILLATION)
        outputs = [output for output in by_level.get(level, []) if DISTILLATION in output]
        tokens = sum(output[_COUNTED] for output in outputs)
        last = metrics.get_meter("default", name)
        if tokens:
            bits = sum(output[DISTILLATION] for output in outputs) / math.log(2)
            metrics.log_scalar(name, bits / tokens, tokens, round=3)
        elif last is not None and level not in by_level:
            # An update of other networks (a validation runs all): its last value, for --log-interval 1.
            metrics.log_scalar(name, last.val, weight=0, round=3)


def _with_output(criterion: Criterion, model: nn.Module, sample: dict[str, Any]) -> tuple[tuple, Any]:
    """Return the result of a criterion, and the model's output from which it was computed."""
    with _recorded_outputs(model) as outputs:
        result = criterion(model, sample)
    if len(outputs) != 1:
        raise ValueError(
            f"--distillation-weight needs a --criterion that calls the model once for each mini-batch, and "
            f"{type(criterion).__name__} called it {len(outputs)} times"
        )
    return result, outputs[0]


@contextmanager
def _recorded_outputs(model: nn.Module) -> Iterator[list[Any]]:
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()

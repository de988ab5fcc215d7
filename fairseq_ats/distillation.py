r"""In-place distillation: lower networks learn from the super-network's soft targets while both are trained.

.. math:: L_\text{level} = (1 - \lambda)\, C + \lambda\, T^2 \sum_\text{tokens} \mathrm{KL}(p \,\|\, q), \qquad
    p = \mathrm{softmax}(z_\text{super} / T), \quad q = \mathrm{softmax}(z_\text{level} / T)

C is the criterion's loss and z are logits; the sum is over target tokens that are no padding; no gradient flows into p.
Not in the paper. In-place distillation is Yu and Huang's ("Universally slimmable networks", ICCV 2019), who have λ = 1
and T = 1; temperature, and the factor T², which keeps the size of gradients, are Hinton et al.'s ("Distilling the
knowledge in a neural network", 2015).

Where the super-network runs in the same update (slimmable), p comes from that very pass, dropout included, as Yu and
Huang have it: it costs no forward pass. In a core update of an alternating training it comes from one more forward pass
without gradient. There dropout is off, as where a trained teacher predicts (Xie et al., "Self-training with noisy
student", CVPR 2020: the student is noised, the teacher is not). The core's own pass draws the random numbers that it
draws without distillation. Both keep p in memory until the lower networks have run: a float32 for each target position
and entry of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ats.metrics import network_key
from fairseq_ats.precision import in_autocast

# fairseq's criteria, as FairseqTask.train_step calls them: loss, sample size, logging output.
Criterion = Callable[[nn.Module, dict[str, Any]], tuple[Tensor, Any, dict[str, Any]]]

METRIC = "distillation"
_TOKENS = "distillation_tokens"


@dataclass(frozen=True)
class Distillation:
    """The options.

    Args:
        weight: λ, 0 < λ ≤ 1.
        temperature: T > 0.
        padding_index: of the target dictionary.
    """

    weight: float
    temperature: float
    padding_index: int

    def log_softmax(self, model: nn.Module, net_output: Any) -> Tensor:
        """log softmax(z / T) of a model's output: (batch, target, vocabulary), in float32 at least.

        Through the model's own log-probabilities, which differ from z by a constant for each token.
        """
        log_probabilities = model.get_normalized_probs(net_output, log_probs=True)
        if self.temperature == 1.0:
            return log_probabilities
        return (log_probabilities / self.temperature).log_softmax(-1)


class Teacher:
    """The super-network's soft targets for one mini-batch, and what a lower network makes of them."""

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation
        self._probabilities: Tensor | None = None  # p: (batch, target, vocabulary)
        self._entropy: Tensor | None = None  # of p: (batch, target)

    def predict(self, model: nn.Module, sample: dict[str, Any], autocast: str | None) -> None:
        """Take the soft targets from a forward pass of their own, at the level at which ``model`` is.

        The model is left without dropout; fairseq's ``train_step`` switches it on (fairseq/tasks/fairseq_task.py:528).

        Args:
            autocast: as in :func:`~fairseq_ats.precision.in_autocast`. With ``--amp`` the pass is in float32, as a
                validation is.
        """

        def forward(model: nn.Module, sample: dict[str, Any]) -> Any:
            return model(**sample["net_input"])

        model.eval()
        # LayerDrop draws numbers without dropout, too (fairseq/modules/layer_drop.py:41), on the CPU on every device.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self._remember(model, in_autocast(forward, autocast)(model, sample))

    def recording(self, criterion: Criterion) -> Criterion:
        """``criterion``, which leaves the soft targets of the pass that it makes with the super-network."""

        def forward(model: nn.Module, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
            result, net_output = _with_output(criterion, model, sample)
            with torch.no_grad():
                self._remember(model, net_output)
            return result

        return forward

    def distilling(self, criterion: Criterion) -> Criterion:
        """``criterion`` of a lower network with the soft targets mixed in; the logged loss is the criterion's own."""
        weight, temperature = self.distillation.weight, self.distillation.temperature

        def forward(model: nn.Module, sample: dict[str, Any]) -> tuple[Tensor, Any, dict[str, Any]]:
            (loss, sample_size, logging_output), net_output = _with_output(criterion, model, sample)
            tokens = model.get_targets(sample, net_output).ne(self.distillation.padding_index)
            tokens[:, : getattr(criterion, "ignore_prefix_size", 0)] = False  # of --ignore-prefix-size, as in the loss
            divergence = self._divergence(self.distillation.log_softmax(model, net_output), tokens)
            mixed = (1 - weight) * loss + weight * temperature**2 * divergence
            return mixed, sample_size, logging_output | {METRIC: divergence.detach(), _TOKENS: tokens.sum()}

        return forward

    def _remember(self, model: nn.Module, net_output: Any) -> None:
        self._probabilities = self.distillation.log_softmax(model, net_output).exp()
        self._entropy = torch.special.entr(self._probabilities).sum(-1)

    def _divergence(self, log_q: Tensor, tokens: Tensor) -> Tensor:
        """KL(p ‖ q) summed over ``tokens``, in nats: the cross-entropy without the entropy of p."""
        divergence = -(self._probabilities * log_q).sum(-1) - self._entropy
        return divergence.masked_fill(~tokens, 0.0).sum()


def check_distilled(model_options: Any, weight: float) -> None:
    """Raises ValueError for a model whose log-probabilities have no gradient.

    Args:
        model_options: fairseq's, as ``task.build_model`` gets them.
        weight: of ``--distillation-weight``, above 0.
    """
    # fairseq computes those of an adaptive softmax in place (fairseq/modules/adaptive_softmax.py:256); its loss does
    # without them.
    cutoff = getattr(model_options, "adaptive_softmax_cutoff", None)
    if cutoff is not None:
        raise ValueError(
            f"--distillation-weight is {weight} and --adaptive-softmax-cutoff is {cutoff}; probabilities of all words, "
            "as distillation compares, have no gradient there; leave one of them out"
        )


def log_distillation(logging_outputs: Sequence[dict[str, Any]], networks: Iterable[str]) -> None:
    """Log KL(p ‖ q) for each target token in bits, fairseq's unit of losses, of each network that was distilled.

    Args:
        networks: names of the networks below the highest.
    """
    for network in networks:
        name, key = f"{network}_{METRIC}", network_key(network, METRIC)
        outputs = [output for output in logging_outputs if key in output]
        tokens = sum(output[network_key(network, _TOKENS)] for output in outputs)
        last = metrics.get_meter("default", name)
        if tokens:
            bits = sum(output[key] for output in outputs) / math.log(2)
            metrics.log_scalar(name, bits / tokens, tokens, round=3)
        elif last is not None and not any(k.startswith(network_key(network, "")) for o in logging_outputs for k in o):
            # An update of other networks (a validation is of all): its last value, for --log-interval 1.
            metrics.log_scalar(name, last.val, weight=0, round=3)


def _with_output(criterion: Criterion, model: nn.Module, sample: dict[str, Any]) -> tuple[tuple, Any]:
    """What the criterion returns, and the model's output from which it made that."""
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

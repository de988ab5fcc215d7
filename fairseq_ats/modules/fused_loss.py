r"""Compute the output projection and the label-smoothed loss together, without the logits of a whole batch.

.. math:: L = \sum_i (1 - \epsilon - \epsilon') (-\log p_{i, y_i}) + \epsilon' \sum_v (-\log p_{i, v}), \qquad
    \epsilon' = \epsilon / (V - 1), \qquad p_i = \mathrm{softmax}(W h_i)

as in fairseq (fairseq/criterions/label_smoothed_cross_entropy.py:37). The gradient with respect to the logits of
position i is p_i - ε' - (1 - ε - ε') e_{y_i}, which needs p_i alone. So the forward pass walks through the
positions in chunks and leaves the gradients of h and W behind; logits exist for one chunk at a time. Nothing differs
from the stock criterion but rounding. This is not in the paper.
"""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CRITERION_NAME = "fused_label_smoothed_cross_entropy"

# Positions whose logits exist at a time. 256 rows keep the matrix products efficient.
CHUNK = 256


def fused_loss(features: Tensor, weight: Tensor, targets: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the label-smoothed loss and the negative log-likelihood, each summed over the positions.

    Under autocast the matrix products are in autocast's type. The softmax is in float32 at least, and so is the
    gradient of the weight.

    Args:
        features: h, (positions, dimension).
        weight: W, (vocabulary, dimension).
        targets: y, (positions,).
        epsilon: ε of label smoothing.

    Returns:
        The loss, and the negative log-likelihood, which has no gradient.
    """
    with_gradient = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    loss, nll_loss = _FusedLoss.apply(features, weight, targets, epsilon, with_gradient, _product_type(features))
    return loss, nll_loss


def correct_predictions(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the number of positions whose target has the highest logit; arguments as of :func:`fused_loss`."""
    chunks = _chunks(features.detach(), weight.detach(), targets, _product_type(features))
    hits = [logits.argmax(-1).eq(chunk_targets).sum() for _, logits, chunk_targets in chunks]
    return torch.stack(hits).sum() if hits else targets.new_zeros(())


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        epsilon: float,
        with_gradient: bool,
        product_type: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        epsilon_each = epsilon / (weight.size(0) - 1)
        softmax_type = torch.promote_types(product_type, torch.float32)
        loss, nll_loss = features.new_zeros(2, dtype=softmax_type).unbind()
        of_features = torch.empty_like(features, dtype=product_type) if with_gradient else None
        of_weight = torch.zeros_like(weight, dtype=softmax_type) if with_gradient else None
        with torch.autocast(features.device.type, enabled=False):
            low_weight = weight.to(product_type)
            done = 0
            for chunk, logits, chunk_targets in _chunks(features, low_weight, targets, product_type):
                index = chunk_targets.unsqueeze(-1)
                logits = logits.to(softmax_type)
                p = logits.softmax(-1)
                # log Σ_v exp(logit_v), by the largest p, which never underflows. The logarithms of all p would have to
                # be raised again for the gradient, and PyTorch's exp is slower than its softmax on a CPU.
                log_sum = logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
                chunk_nll = (log_sum - logits.gather(-1, index)).sum()
                chunk_smooth = (len(weight) * log_sum - logits.sum(-1, keepdim=True)).sum()
                nll_loss = nll_loss + chunk_nll
                loss = loss + (1.0 - epsilon - epsilon_each) * chunk_nll + epsilon_each * chunk_smooth
                if of_features is not None and of_weight is not None:
                    of_logits = p.sub_(epsilon_each)
                    of_logits.scatter_add_(-1, index, of_logits.new_full(index.shape, epsilon + epsilon_each - 1.0))
                    low = of_logits.to(product_type)
                    torch.matmul(low, low_weight, out=of_features[done : done + len(chunk)])
                    of_weight += low.t() @ chunk
                done += len(chunk)
        ctx.gradients = of_features, of_weight
        ctx.types = features.dtype, weight.dtype
        ctx.mark_non_differentiable(nll_loss)
        return loss, nll_loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            (gradient * of_loss).to(dtype) if needed else None
            for gradient, dtype, needed in zip(ctx.gradients, ctx.types, ctx.needs_input_grad[:2], strict=True)
        ]
        return *gradients, None, None, None, None


def _chunks(
    features: Tensor, weight: Tensor, targets: Tensor, product_type: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield features, logits and targets of :data:`CHUNK` positions after the other."""
    for rows, chunk_targets in zip(features.split(CHUNK), targets.split(CHUNK), strict=True):
        if len(rows):  # an empty tensor splits into one empty part
            chunk = rows.to(product_type)
            yield chunk, F.linear(chunk, weight.to(product_type)), chunk_targets


def _product_type(features: Tensor) -> torch.dtype:
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype


def check_one_matrix(model_options: Any) -> None:
    """Refuse a model whose output layer is more than one matrix, before it is built.

    Args:
        model_options: fairseq's, as ``task.build_model`` gets them.

    Raises:
        ValueError: the model has an adaptive softmax.
    """
    cutoff = getattr(model_options, "adaptive_softmax_cutoff", None)
    if cutoff is not None:
        raise ValueError(
            f"--criterion is {CRITERION_NAME} and --adaptive-softmax-cutoff is {cutoff}; leave the cut-off out, or use "
            "--criterion adaptive_loss"
        )


@dataclass
class FusedLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The options of ``--criterion label_smoothed_cross_entropy``."""


@register_criterion(CRITERION_NAME, dataclass=FusedLabelSmoothedCrossEntropyConfig)
class FusedLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """``--criterion fused_label_smoothed_cross_entropy``: the stock loss, and the same logged values, in less memory.

    It asks a Transformer for its features (``features_only``) and applies the output projection itself. Padding is
    left out before the projection and not after it.
    """

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """Return the loss, the sample size and the logging output, as fairseq's criterion does.

        Without ``reduce``, which no training uses, this is fairseq's criterion.

        Raises:
            ValueError: the model's output layer is more than one matrix, as an adaptive softmax is.
        """
        return super().forward(_Features(model) if reduce else model, sample, reduce)

    def compute_loss(
        self, model: Any, net_output: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor]:
        if not reduce:
            return super().compute_loss(model, net_output, sample, reduce)
        return fused_loss(*self._counted(model, net_output, sample), self.eps)

    def compute_accuracy(self, model: Any, net_output: Any, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if not isinstance(model, _Features):
            return super().compute_accuracy(model, net_output, sample)
        features, weight, targets = self._counted(model, net_output, sample)
        return correct_predictions(features, weight, targets), torch.tensor(targets.numel())

    def _counted(self, model: "_Features", net_output: Any, sample: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, weight and targets of the positions that the loss counts."""
        features = net_output[0][:, self.ignore_prefix_size :]
        targets = sample["target"][:, self.ignore_prefix_size :]
        counted = targets.ne(self.padding_idx)
        return features[counted], model.weight, targets[counted]


class _Features:
    """A Transformer that returns the features before its output projection, and the projection's weight."""

    def __init__(self, model: Any) -> None:
        projection = getattr(model.decoder, "output_projection", None)
        if not isinstance(projection, nn.Linear) or projection.bias is not None:
            raise ValueError(
                f"--criterion is {CRITERION_NAME}, which needs a model whose output layer is one matrix (no "
                "--adaptive-softmax-cutoff); use label_smoothed_cross_entropy"
            )
        self.model: Any = model
        self.weight: Tensor = projection.weight

    def __call__(self, **net_input: Any) -> Any:
        return self.model(**net_input, features_only=True)

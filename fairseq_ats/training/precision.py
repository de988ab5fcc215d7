"""Run forward passes in lower precision, over weights that stay float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def in_autocast(criterion: Callable[..., Any], dtype_name: str | None) -> Callable[..., Any]:
    """Wrap ``criterion(model, sample)`` so that it computes matrix products in ``dtype_name``; None: do not wrap.

    The criterion is wrapped and not fairseq's ``train_step``: that one switches CUDA's autocast off again
    (fairseq/tasks/fairseq_task.py:512), and PyTorch wants the backward pass outside. Weights, gradients and Adam's
    state stay float32. bfloat16 has float32's range, so the loss is not scaled.
    """
    if dtype_name is None:
        return criterion

    def forward(model: nn.Module, sample: dict[str, Any]) -> Any:
        device = next(model.parameters()).device.type
        with torch.autocast(device, getattr(torch, dtype_name)):
            return criterion(model, sample)

    return forward


def check_autocast(model_options: Any, dtype_name: str) -> None:
    """Refuse a model that would run in another precision when it is run again for the backward pass.

    fairseq restores the random state for recomputed activations, but not autocast
    (fairseq/modules/checkpoint_activations.py).

    Raises:
        ValueError: the model recomputes activations.
    """
    # Not every arch has these options of fairseq.
    if any(getattr(model_options, name, False) for name in ("checkpoint_activations", "offload_activations")):
        raise ValueError(
            f"--autocast is {dtype_name} and --checkpoint-activations (or --offload-activations) computes gradients in "
            "float32; leave one of them out"
        )

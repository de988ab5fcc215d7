"""Forward passes in lower precision, over weights that stay float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fairseq.optim import AMPOptimizer, FairseqOptimizer
from torch import nn

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16}


def in_autocast(criterion: Callable[..., Any], dtype_name: str | None) -> Callable[..., Any]:
    """``criterion(model, sample)`` with matrix products in ``dtype_name``; unchanged for None.

    Around the criterion and not around fairseq's ``train_step``, which switches CUDA's autocast off again
    (fairseq/tasks/fairseq_task.py:512), and whose backward pass PyTorch wants outside. Weights, gradients and Adam's
    state stay float32; bfloat16 has float32's range, so the loss is not scaled.
    """
    if dtype_name is None:
        return criterion

    def forward(model: nn.Module, sample: dict[str, Any]) -> Any:
        device = next(model.parameters()).device.type
        with torch.autocast(device, AUTOCAST_DTYPES[dtype_name]):
            return criterion(model, sample)

    return forward


def step_unscaled(optimizer: FairseqOptimizer) -> None:
    """``optimizer.step()``, with gradients that were divided by the loss scale once.

    fairseq's ``--amp`` does it twice: it unscales for the inner optimizer when it clips, and then gives the outer one
    to PyTorch's scaler, which has not seen that one before (fairseq/optim/amp_optimizer.py:54 and :49). As the scale
    grows, gradients shrink towards Adam's epsilon and updates fade.
    """
    if isinstance(optimizer, AMPOptimizer):
        optimizer.scaler.step(optimizer.optimizer)
        optimizer.scaler.update()
    else:
        optimizer.step()


def check_autocast(model_options: Any, dtype_name: str) -> None:
    """Raises ValueError if the model would run in another precision when it is run again for the backward pass.

    fairseq's recomputed activations bring back the random state, and not autocast
    (fairseq/modules/checkpoint_activations.py).
    """
    # Not every arch has these options of fairseq.
    if any(getattr(model_options, name, False) for name in ("checkpoint_activations", "offload_activations")):
        raise ValueError(
            f"--autocast is {dtype_name} and --checkpoint-activations (or --offload-activations) computes gradients in "
            "float32; leave one of them out"
        )

"""Forward passes in lower precision, over weights that stay float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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

"""A linear layer whose dense weight exists only while it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_with_folded_weight(x: Tensor, fold: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
    """``F.linear(x, fold(), bias)`` that folds the weight again for the backward pass.

    PyTorch would keep the weight from forward to backward: one more copy of every partitioned layer's. What is folded
    gets its gradients from autograd: for W + VU and G = ∂/∂(W + VU) they are G, G Uᵀ and Vᵀ G. Nothing may change the
    parameters between forward and backward; it would not be noticed.

    Under autocast the weight is folded in its own precision, and rounded for the product alone.

    Args:
        x: (*, in).
        fold: returns (out, in); called twice, the second time without autograd.
        bias: (out,), or None.
    """
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(device)

    def weight_for_product() -> Tensor:
        with torch.autocast(device, enabled=False):
            return fold().to(dtype)

    bias = None if bias is None else bias.to(dtype)
    # As a matrix: what a function of our own returns must not be a view, or nothing could change it in place.
    rows = _Linear.apply(x.reshape(-1, x.shape[-1]).to(dtype), weight_for_product(), bias, weight_for_product)
    return rows.view(*x.shape[:-1], rows.shape[-1])


class _Linear(torch.autograd.Function):
    """On matrices (rows, in) → (rows, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, fold: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.fold = fold
        return F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x,) = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        of_x = gradient @ ctx.fold() if needs_x else None
        of_weight = gradient.T @ x if needs_weight else None
        of_bias = gradient.sum(0) if needs_bias else None
        return of_x, of_weight, of_bias, None

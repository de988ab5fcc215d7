"""A linear layer whose dense weight exists only while it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_with_rebuilt_weight(x: Tensor, build_weight: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
    """``F.linear(x, build_weight(), bias)`` that builds the weight again for the backward pass.

    PyTorch would keep the weight from forward to backward: one more copy of every partitioned layer's. What the weight
    is built from gets its gradients from autograd: for W + VU and G = ∂/∂(W + VU) they are G, G Uᵀ and Vᵀ G.

    Under autocast the weight is built in its own precision, and rounded for the product alone.

    Args:
        x: (*, in).
        build_weight: returns (out, in); called twice, the second time without autograd.
        bias: (out,), or None.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, bias = x.to(dtype), None if bias is None else bias.to(dtype)

    def weight_for_product() -> Tensor:
        with torch.autocast(device, enabled=False):
            return build_weight().to(x.dtype)

    # As a matrix: what a function of our own returns must not be a view, or nothing could change it in place.
    rows = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_for_product(), bias, weight_for_product)
    return rows.view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """On matrices (rows, in) → (rows, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rebuild: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.rebuild = rebuild
        return F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x,) = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        of_x = gradient @ ctx.rebuild() if needs_x else None
        of_weight = gradient.T @ x if needs_weight else None
        of_bias = gradient.sum(0) if needs_bias else None
        return of_x, of_weight, of_bias, None

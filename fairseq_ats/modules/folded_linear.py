"""A linear layer whose dense weight exists only while it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_with_folded_weight(x: Tensor, fold: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
    """Compute ``F.linear(x, fold(), bias)``, and fold the weight again for the backward pass.

    PyTorch would keep the weight from forward to backward: one more copy for every partitioned layer. Autograd passes
    the weight's gradient on to the blocks: for W + VU and G = ∂/∂(W + VU), the gradients of W, V and U are G, G Uᵀ and
    Vᵀ G. Do not change the parameters between forward and backward: nothing would notice.

    Under autocast the weight is folded in its own precision, and only the product is rounded.

    Args:
        x: (*, in).
        fold: returns (out, in); called twice, the second time without autograd.
        bias: (out,), or None.
    """
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:  # autocast leaves float64 alone
        dtype = torch.get_autocast_dtype(device)

    def weight_for_product() -> Tensor:
        with torch.autocast(device, enabled=False):
            return fold().to(dtype)

    bias = None if bias is None else bias.to(dtype)
    # Flatten to 2-D: a custom Function must not return a view, because callers may modify the result in place.
    rows = _Linear.apply(x.reshape(-1, x.shape[-1]).to(dtype), weight_for_product(), bias, weight_for_product)
    return rows.view(*x.shape[:-1], rows.shape[-1])


class _Linear(torch.autograd.Function):
    """The product for matrices: (rows, in) → (rows, out)."""

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

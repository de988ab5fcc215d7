"""A linear layer whose dense weight exists only while it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Keep = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def linear_with_folded_weight(
    x: Tensor, fold: Callable[[], Tensor], bias: Tensor | None, keep: Keep | None = None
) -> Tensor:
    """Compute ``F.linear(x, fold(), bias)``, and fold the weight again for the backward pass.

    PyTorch would keep the weight from forward to backward: one more copy for every partitioned layer. Autograd passes
    the weight's gradient on to the blocks: for W + VU and G = ∂/∂(W + VU), the gradients of W, V and U are G, G Uᵀ and
    Vᵀ G. Do not change the parameters between forward and backward: nothing would notice.

    Under autocast the weight is folded in its own precision, and only the product is rounded.

    Args:
        x: (*, in).
        fold: returns (out, in); called twice, the second time without autograd.
        bias: (out,), or None.
        keep: what the backward pass keeps of the gradient (rows, out): either as much, or some of its columns and their
            numbers, so that the products are smaller. The gradient of the bias then has all columns. None: everything.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device) if x.dtype != torch.float64 else x.dtype  # autocast leaves it alone
        fold = partial(_fold_for_product, fold, device, dtype)
        x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
    # Flatten to 2-D: a custom Function must not return a view, because callers may modify the result in place.
    rows = _Linear.apply(x.reshape(-1, x.shape[-1]), fold(), bias, fold, keep)
    return rows.view(*x.shape[:-1], rows.shape[-1])


def _fold_for_product(fold: Callable[[], Tensor], device: str, dtype: torch.dtype) -> Tensor:
    with torch.autocast(device, enabled=False):
        return fold().to(dtype)


class _Linear(torch.autograd.Function):
    """The product for matrices: (rows, in) → (rows, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, fold: Callable[[], Tensor], keep: Keep | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.fold, ctx.keep = fold, keep
        return F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        kept, columns = (gradient, None) if ctx.keep is None else ctx.keep(gradient)
        whole = kept if columns is None else gradient
        of_x = kept @ _rows(ctx.fold(), columns) if needs_x else None
        of_weight = kept.T @ x if needs_weight else None
        if of_weight is not None and columns is not None:
            of_weight = of_weight.new_zeros(gradient.shape[1], x.shape[1]).index_copy(0, columns, of_weight)
        of_bias = whole.sum(0) if needs_bias else None
        return of_x, of_weight, of_bias, None, None


def _rows(weight: Tensor, numbers: Tensor | None) -> Tensor:
    return weight if numbers is None else weight.index_select(0, numbers)

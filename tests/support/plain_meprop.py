"""The backward pass of meProp as published, by loops and masks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class PlainMeProp(torch.autograd.Function):
    """A linear layer: ``apply(x, weight, bias, kind, ratio)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, kind: str, ratio: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = kind, ratio
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (kind, ratio) = ctx.saved_tensors, ctx.how
        rows = gradient.reshape(-1, gradient.shape[-1]).clone()
        of_bias, k = rows.sum(0), math.ceil(ratio * rows.shape[1])
        if kind == "unified":
            rows[:, rows.abs().sum(0).argsort(descending=True)[k:]] = 0
        else:
            for row in rows:
                row[row.abs().argsort(descending=True)[k:]] = 0
            of_bias = rows.sum(0)
        of_x = (rows @ weight).view(x.shape)
        return of_x, rows.T @ x.reshape(-1, x.shape[-1]), of_bias, None, None

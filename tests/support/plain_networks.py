"""The networks of a low-rank partition as stock models with dense weights, and their updates by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch

# A key bias adds the same to all scores of a query: its gradient is zero but for rounding, which Adam scales up.
NOISE = ("k_proj.bias", "k_proj.core_bias")


def set_dense_weights(stock: torch.nn.Module, values: dict[str, torch.Tensor], replaced: list[str], level: int) -> None:
    """Make a stock model the network of ``level``: its replaced weights are VU, or W + VU.

    Args:
        values: parameters of the partitioned model, by name.
        replaced: names of the partitioned layers.
    """
    for name, parameter in stock.named_parameters():
        owner, kind = name.rsplit(".", 1)
        if owner not in replaced:
            parameter.data.copy_(values[name])
        elif kind == "bias":
            parameter.data.copy_(values[f"{owner}.core_bias"])
        else:
            product = values[f"{owner}.core_v"] @ values[f"{owner}.core_u"]
            full = values[f"{owner}.extension_weight"] if level == 2 else 0.0
            parameter.data.copy_(product + full)


def dense_gradients(
    stock: torch.nn.Module,
    values: dict[str, torch.Tensor],
    replaced: list[str],
    level: int,
    loss: Callable[[torch.nn.Module], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Gradients of ``loss`` of the network of ``level``, by the chain rule from those of dense weights."""
    set_dense_weights(stock, values, replaced, level)
    stock.zero_grad()
    loss(stock).backward()
    gradients = {}
    for name, parameter in stock.named_parameters():
        owner, kind = name.rsplit(".", 1)
        g = parameter.grad
        if owner not in replaced:
            gradients[name] = g.clone()
        elif kind == "bias":
            gradients[f"{owner}.core_bias"] = g.clone()
        else:
            gradients[f"{owner}.core_v"] = g @ values[f"{owner}.core_u"].T
            gradients[f"{owner}.core_u"] = values[f"{owner}.core_v"].T @ g
            if level == 2:
                gradients[f"{owner}.extension_weight"] = g.clone()
    return gradients


def adam_by_hand(
    values: dict[str, torch.Tensor], moments: dict[str, list], name: str, g: torch.Tensor, lr: float, eps: float
) -> None:
    b1, b2 = 0.9, 0.98
    m, v, t = moments[name]
    m, v, t = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, t + 1
    moments[name] = [m, v, t]
    step_size = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
    values[name] = values[name] - step_size * m / (v.sqrt() + eps)

"""Gradients at given values of the parameters: of a copy of the model that has these values, by ``backward``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def gradients_at(
    model: nn.Module,
    criterion: Callable[..., Any],
    batches: Sequence[Any],
    values: Callable[[str, Tensor], Tensor] = lambda name, x: x,
) -> dict[str, Tensor]:
    """The gradient of the summed losses of all batches, where ``values(name, x)`` has the value of each parameter."""
    there = copy.deepcopy(model)
    there.zero_grad()
    for name, p in there.named_parameters():
        p.requires_grad_()
        p.data = values(name, p.detach())
    for batch in batches:
        criterion(there, batch)[0].backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in there.named_parameters()}


def by_name(model: nn.Module, values: Mapping[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    """The values of parameters, by name."""
    return {name: values[p] for name, p in model.named_parameters() if p in values}


def softmax_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq's softmax is in float32 whatever the model's precision."""
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))

"""Adam with a step count for each coordinate."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


@torch.no_grad()
def step_selected(p: nn.Parameter, state: dict[str, Any], group: dict[str, Any], selected: Tensor) -> None:
    r"""Move the selected elements of a parameter by fairseq's Adam; leave weight and state of the others as they are.

    .. math:: x \leftarrow x - \eta\lambda x - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
        \cdot \frac{m}{\sqrt{v} + \epsilon}

    Here t counts the updates that selected the coordinate. With one count for the whole tensor, the first step of a
    coordinate that is first selected late would be :math:`(1-\beta_1) / \sqrt{1-\beta_2}` times as long.

    The count is kept under ``step``, where fairseq keeps its own. It is a float32 tensor of the mask's shape, exact up
    to 2²⁴, and an int again once all coordinates agree.

    Args:
        p: has a gradient.
        state: ``step`` (an int, or a tensor that broadcasts to ``p``), ``exp_avg`` and ``exp_avg_sq``.
        group: the optimizer's options: ``lr``, ``betas``, ``eps``, ``weight_decay``.
        selected: bool; broadcasts to ``p``.
    """
    beta1, beta2 = group["betas"]
    m, v = state["exp_avg"], state["exp_avg_sq"]
    gradient = cast(Tensor, p.grad).to(m.dtype)
    # torch's load_state_dict leaves the count on the device on which it was saved.
    counts = torch.as_tensor(state["step"], dtype=torch.float32, device=p.device) + selected
    t = counts.double().clamp(min=1)  # 0 only where no update has selected anything so far
    step_size = (group["lr"] * (1 - beta2**t).sqrt() / (1 - beta1**t)).to(m.dtype)

    m.copy_(torch.where(selected, beta1 * m + (1 - beta1) * gradient, m))
    v.copy_(torch.where(selected, beta2 * v + (1 - beta2) * gradient * gradient, v))
    x = p.to(m.dtype)
    moved = x * (1 - group["lr"] * group["weight_decay"]) - step_size * m / (v.sqrt() + group["eps"])
    p.copy_(torch.where(selected, moved, x))
    state["step"] = _as_int_if_equal(counts)


def _as_int_if_equal(counts: Tensor) -> int | Tensor:
    first = counts.flatten()[:1]
    return int(first) if first.numel() > 0 and bool((counts == first).all()) else counts

"""fairseq's Adam, computed by PyTorch's fused kernel."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.optim.adam import Adam
from torch import Tensor, nn
from torch.optim.adamw import adamw

# PyTorch has the kernel for other devices too; these are the ones whose state it takes as fairseq keeps it.
FUSED_DEVICES = ("cpu", "cuda")


class FusedAdam(Adam):
    r"""fairseq's Adam with one kernel call for many parameters, and the same state and update.

    .. math:: x \leftarrow x - \eta\lambda x - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
        \cdot \frac{m}{\sqrt{v} + \epsilon}

    PyTorch divides by :math:`\sqrt{v / (1-\beta_2^t)} + \epsilon'` instead, which is the same for
    :math:`\epsilon' = \epsilon / \sqrt{1-\beta_2^t}`. Parameters with the same step count t therefore go into one call:
    in alternating training the core's and the extension's.

    Parameters in half precision (fairseq's memory-efficient fp16, which keeps their moments in float32), and devices
    without the kernel, are left to fairseq's own loop.
    """

    def step(self, closure: Any = None) -> Any:
        """Raises RuntimeError for sparse gradients, as fairseq's."""
        loss = None if closure is None else closure()
        taken = []
        for group in self.param_groups:
            by_step: dict[int, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None and _is_fusable(p):
                    by_step[self._initialised_state(p)["step"]].append(p)
            for step, parameters in by_step.items():
                self._fused_step(parameters, step, group)
                taken += parameters
        with hidden_gradients(taken):
            super().step()
        return loss

    def _initialised_state(self, p: nn.Parameter) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        return state

    def _fused_step(self, parameters: list[nn.Parameter], step: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in parameters]
        # The kernel counts on the device. fairseq counts in Python; its count is what is saved.
        device = parameters[0].device
        counts = torch.full((len(parameters),), step, dtype=torch.float32, device=device).unbind()
        adamw(
            [p.data for p in parameters],
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            list(counts),
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2 ** (step + 1)),
            maximize=False,
        )
        for state in states:
            state["step"] = step + 1


def _is_fusable(p: nn.Parameter) -> bool:
    full_precision = p.dtype in (torch.float32, torch.float64) and p.grad.dtype == p.dtype
    if not full_precision or p.device.type not in FUSED_DEVICES or p.grad.is_sparse:
        return False
    # The kernel walks through memory, and would take elements of a transposed gradient for others.
    return p.grad.stride() == p.stride()


@contextmanager
def hidden_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside the context these parameters have no gradient; it is back afterwards, whatever happens."""
    gradients: list[Tensor | None] = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient

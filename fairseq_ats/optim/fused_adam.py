"""fairseq's Adam, computed by PyTorch's fused kernel."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import torch
from fairseq.optim.adam import Adam
from torch import Tensor, nn
from torch.optim.adamw import adamw

from fairseq_ats.optim.adam_by_coordinate import step_selected
from fairseq_ats.optim.mask import hidden_gradients

# Devices on which the fused kernel accepts fairseq's optimizer state.
FUSED_DEVICES = ("cpu", "cuda")


class FusedAdam(Adam):
    r"""fairseq's Adam with one kernel call for many parameters, and the same state and update.

    .. math:: x \leftarrow x - \eta\lambda x - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
        \cdot \frac{m}{\sqrt{v} + \epsilon}

    PyTorch divides by :math:`\sqrt{v / (1-\beta_2^t)} + \epsilon'` instead, which is the same for
    :math:`\epsilon' = \epsilon / \sqrt{1-\beta_2^t}`. So one call moves all parameters with the same step count t: in
    alternating training there is one call for the core and one for the extension.

    fairseq's own loop moves parameters in half precision (its memory-efficient fp16 keeps their moments in float32) and
    parameters on devices without the kernel. A parameter whose coordinates have step counts of their own, because
    :meth:`step_coordinates` moved some of them, is moved by :func:`step_selected`.
    """

    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient.

        Raises:
            RuntimeError: a gradient is sparse, which fairseq's Adam refuses.
        """
        loss = None if closure is None else closure()
        taken = []
        for group in self.param_groups:
            by_step: dict[int, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                if isinstance(self.state[p].get("step"), Tensor):
                    step_selected(p, self.state[p], group, torch.tensor(True, device=p.device))
                    taken.append(p)
                elif _is_fusable(p):
                    by_step[self._initialised_state(p)["step"]].append(p)
            for step, parameters in by_step.items():
                self._fused_step(parameters, step, group)
                taken += parameters
        with hidden_gradients(taken):
            super().step()
        return loss

    def step_coordinates(self, selected: Mapping[nn.Parameter, Tensor]) -> None:
        """Move the selected elements of these parameters, which have gradients; see :func:`step_selected`."""
        for group in self.param_groups:
            for p in group["params"]:
                if p in selected:
                    step_selected(p, self._initialised_state(p), group, selected[p])

    def _initialised_state(self, p: nn.Parameter) -> dict[str, Any]:
        state = self.state[p]
        if "step" not in state:
            moments = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            state.update(step=0, exp_avg=moments, exp_avg_sq=moments.clone())
        return state

    def _fused_step(self, parameters: list[nn.Parameter], step: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in parameters]
        # The kernel counts on the device. fairseq counts in Python; its count is what is saved.
        device = parameters[0].device
        counts = torch.full((len(parameters),), step, dtype=torch.float32, device=device).unbind()
        adamw(
            [p.data for p in parameters],
            [cast(Tensor, p.grad) for p in parameters],
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
    gradient = cast(Tensor, p.grad)
    full_precision = p.dtype in (torch.float32, torch.float64) and gradient.dtype == p.dtype
    if not full_precision or p.device.type not in FUSED_DEVICES or gradient.is_sparse:
        return False
    # The kernel walks through memory, and would take elements of a transposed gradient for others.
    return gradient.stride() == p.stride()

"""Updates of a scheme through the task, and by plain lines: gradients of a copy, Adam coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import optim
from torch import Tensor

from tests.support.plain_networks import NOISE

BETA1, BETA2 = 0.9, 0.98


class PlainAdam:
    """fairseq's Adam with a count for each coordinate: each runs on the updates that select it."""

    def __init__(self, cfg: Any, values: dict[str, Tensor]) -> None:
        self.lr, self.eps, self.decay = cfg.lr[0], cfg.adam_eps, cfg.weight_decay
        self.values = values
        self.m, self.v, self.t = ({name: torch.zeros_like(x) for name, x in values.items()} for _ in range(3))

    def step(self, gradients: dict[str, Tensor], selected: dict[str, Tensor], lr_scale: float = 1.0) -> None:
        """``selected``: nothing of a parameter that is not in it moves."""
        lr = self.lr * lr_scale
        for name, chosen in selected.items():
            x, g = self.values[name], gradients[name]
            p = torch.as_tensor(chosen).expand(x.shape)
            self.t[name] = t = self.t[name] + p
            self.m[name] = m = torch.where(p, BETA1 * self.m[name] + (1 - BETA1) * g, self.m[name])
            self.v[name] = v = torch.where(p, BETA2 * self.v[name] + (1 - BETA2) * g * g, self.v[name])
            size = lr * (1 - BETA2 ** t.clamp(min=1)).sqrt() / (1 - BETA1 ** t.clamp(min=1))
            self.values[name] = torch.where(p, x * (1 - lr * self.decay) - size * m / (v.sqrt() + self.eps), x)


def updates(built: SimpleNamespace, batches: list[Any], count: int, clip: float = 0.0) -> Iterator[int]:
    """Make updates as fairseq's trainer does; yield each number before the update."""
    model = built.model
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(model.parameters()))
    for number in range(count):
        yield number
        adam.zero_grad()
        sizes = [built.task.train_step(b, model, built.criterion, adam, number)[1] for b in batches]
        adam.multiply_grads(1 / sum(sizes))
        if clip > 0:  # fairseq's, which takes no float64
            adam.clip_grad_norm(clip)
        built.task.optimizer_step(adam, model, number)


def assert_moved_alike(model: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        if not name.endswith((*NOISE, "k_proj.extension_bias")):
            torch.testing.assert_close(
                p.detach(), expected[name], rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


def check_updates(
    built: SimpleNamespace,
    batches: list[Any],
    by_hand: Callable[[int, dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]],
    count: int = 3,
    lr_scale: float = 1.0,
    clip: float = 0.0,
) -> None:
    """Hold updates against ``by_hand(number, values)``, which returns gradients of the mean loss, and what moves."""
    adam = PlainAdam(built.cfg.optimizer, {n: p.detach().clone() for n, p in built.model.named_parameters()})
    for number in updates(built, batches, count, clip):
        adam.step(*by_hand(number, adam.values), lr_scale)
    assert_moved_alike(built.model, adam.values)

"""Take the gradient of an update's mini-batch again, at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from fairseq_ats.host.workers import Workers


@dataclass(frozen=True)
class _MicroBatch:
    """One micro-batch of an update, with the random state from which the update ran it."""

    criterion: Callable[..., Any]
    sample: dict[str, Any]
    rng_state: dict[str, Tensor]


class UpdateBatch:
    """The micro-batches of an update on this worker."""

    def __init__(self) -> None:
        self._micro_batches: list[_MicroBatch] = []
        self._sample_size = 0.0

    @contextmanager
    def remembering(
        self, model: nn.Module, criterion: Callable[..., Any], sample: dict[str, Any], ignore: bool
    ) -> Iterator[None]:
        """Remember a micro-batch. Run the update's own passes inside.

        If a pass runs out of memory, the caller discards all gradients accumulated so far
        (fairseq_ats/training/out_of_memory.py, fairseq/trainer.py:881). Drop the remembered micro-batches then.

        Args:
            criterion: a function ``criterion(model, sample)`` that returns (loss, sample size, ...), in the update's
                precision.
            ignore: fairseq's ``ignore_grad``. If True, the sample is a dummy, because this worker has no batch left.
        """
        if begins_update(model.parameters()):  # micro-batches from before that do not belong to this update
            self.forget()
        batch = _MicroBatch(criterion, sample, utils.get_rng_state())
        try:
            yield
        except BaseException:
            self.forget()
            raise
        if not ignore:
            self._micro_batches.append(batch)

    def forget(self) -> None:
        """Drop the micro-batches."""
        self._micro_batches = []

    def gradients(
        self, network: nn.Module, parameters: Mapping[str, nn.Parameter], scale: float = 1.0, as_in_update: bool = True
    ) -> dict[str, Tensor]:
        """Return the gradients of the loss summed over all micro-batches and workers, by name, at least in float32.

        ``torch.autograd.grad`` changes no ``.grad`` and triggers no hook of a data-parallel wrapper.

        Args:
            scale: a factor of the loss.
            as_in_update: whether to start each micro-batch from the random state of the update. If False, continue from
                the random state after the last pass.
        """
        wanted = list(parameters.values())
        sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in wanted]
        self._sample_size = 0.0
        for batch in self._micro_batches:
            if as_in_update:
                utils.set_rng_state(batch.rng_state)
            loss, sample_size, *_ = batch.criterion(network, batch.sample)
            self._sample_size += float(sample_size)
            for total, gradient in zip(sums, torch.autograd.grad(loss * scale, wanted, allow_unused=True), strict=True):
                if gradient is not None:
                    total.add_(gradient)
        _sum_over_workers(sums)
        return dict(zip(parameters, sums, strict=True))

    def sample_size(self, device: torch.device) -> float:
        """Return by what fairseq divides the gradients that :meth:`gradients` has just summed."""
        total = torch.tensor(self._sample_size, dtype=torch.float64, device=device)
        _sum_over_workers([total])
        return float(total) or 1.0  # as fairseq does (fairseq/trainer.py:945)


def begins_update(parameters: Iterable[nn.Parameter]) -> bool:
    """Return whether the micro-batch that comes next is the first of its update.

    fairseq clears the gradients before that, and after an overflow (fairseq/trainer.py:802 and :1024).

    Args:
        parameters: all that can have gradients.
    """
    return all(p.grad is None for p in parameters)


def _sum_over_workers(tensors: list[Tensor]) -> None:
    workers = Workers.of_this_process()
    for tensor in tensors:
        workers.add_up_(tensor)


def network_of(model: nn.Module) -> nn.Module:
    """Take the network out of the wrapper: a forward pass of the wrapper would prepare to reduce gradients."""
    return next(m for m in model.modules() if isinstance(m, BaseFairseqModel))


@contextmanager
def left_as_found(network: nn.Module) -> Iterator[None]:
    """Restore the random state, modes, buffers and ``requires_grad`` flags on exit, even after an exception."""
    rng_state = utils.get_rng_state()
    modes = [(module, module.training) for module in network.modules()]
    needed = [(p, p.requires_grad) for p in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        utils.set_rng_state(rng_state)
        for module, mode in modes:
            module.training = mode
        for p, needs_gradient in needed:
            p.requires_grad_(needs_gradient)
        for buffer, value in buffers:
            buffer.copy_(value)

"""Parameters whose gradients stay as each worker has them, and the norm of the gradients of all workers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.optim import FairseqOptimizer
from torch import Tensor, nn

from fairseq_ats.host.workers import Workers

# fairseq's mark of a mixture's experts. legacy_ddp does not reduce their gradients
# (fairseq/distributed/legacy_distributed_data_parallel.py:140), and fairseq/utils.py:355 leaves them out of the norm.
_MARK = "expert"


def leave_unreduced(parameters: Iterable[nn.Parameter], weight: float) -> None:
    """Leave the gradients of these parameters as this worker has them.

    Args:
        weight: what the square of each worker's norm counts in that of all gradients: 1 where each worker has gradients
            of another part of the parameter; 1 / workers where each has an estimate of the same gradient.
    """
    for p in parameters:
        setattr(p, _MARK, weight)


def is_reduced(parameter: nn.Parameter) -> bool:
    """Return whether fairseq adds up the gradients of all workers."""
    return not hasattr(parameter, _MARK)


def fit_buffer_(model: nn.Module) -> None:
    """Make legacy_ddp send no more than the gradients that it reduces.

    Its buffer has room for all parameters, and it sends all of it, filled or not
    (fairseq/distributed/legacy_distributed_data_parallel.py:46 and :113).
    """
    for module in model.modules():
        if isinstance(module, LegacyDistributedDataParallel) and module.buffer is None:
            reduced = [p.numel() for p in module.parameters() if p.requires_grad and is_reduced(p)]
            module.buffer_size = min(module.buffer_size, sum(reduced))


class ClipsAllGradients(FairseqOptimizer):
    """Mixin of one of fairseq's optimizers: the norm is that of the gradients of all workers."""

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: object = None) -> Tensor:
        """Clip as fairseq does, and return the norm, which is the same on every worker.

        fairseq's own function clips nothing where no gradient is reduced (fairseq/utils.py:361). Without apex it also
        starts a kernel for each parameter (fairseq/utils.py:382), which on a card is a fifth of an update's kernels.
        """
        held = [p for p in self.params if p.grad is not None]
        unreduced = [p for p in held if not is_reduced(p)]
        if not unreduced:
            if held and aggregate_norm_fn is None and all(_is_float32_on_card(p.grad) for p in held):
                return clip_at_once(held, max_norm)
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        squares = torch.stack([getattr(p, _MARK) * p.grad.norm().double() ** 2 for p in unreduced]).sum()
        Workers.of_this_process().add_up_(squares)
        norm = (squares + super().clip_grad_norm(0).double() ** 2).sqrt().float()
        if max_norm > 0:
            nn.utils.clip_grads_with_norm_(held, max_norm, norm)
        return norm


def clip_at_once(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip the gradients of these parameters as fairseq does, by a few kernels for all; return their norm.

    Args:
        max_norm: 0 clips nothing.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def _is_float32_on_card(gradient: Tensor) -> bool:
    # On a CPU fairseq's function is as fast, and the sum is in another order: results would change in the last bit.
    return gradient.dtype == torch.float32 and gradient.device.type == "cuda"

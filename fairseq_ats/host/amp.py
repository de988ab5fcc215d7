"""Run an optimizer step with gradients that were divided by the loss scale only once."""

from __future__ import annotations

from fairseq.optim import AMPOptimizer, FairseqOptimizer


def step_unscaled(optimizer: FairseqOptimizer) -> None:
    """Run ``optimizer.step()`` with gradients that were divided by the loss scale only once.

    fairseq's ``--amp`` divides twice. It unscales the gradients of the inner optimizer when it clips. It then passes
    the outer optimizer to PyTorch's scaler, which does not know that optimizer and unscales again
    (fairseq/optim/amp_optimizer.py:54 and :49). As the scale grows, the gradients shrink towards Adam's epsilon and the
    updates vanish.
    """
    if isinstance(optimizer, AMPOptimizer):
        optimizer.scaler.step(optimizer.optimizer)
        optimizer.scaler.update()
    else:
        optimizer.step()

"""Step with gradients that were divided by the loss scale once."""

from __future__ import annotations

from fairseq.optim import AMPOptimizer, FairseqOptimizer


def step_unscaled(optimizer: FairseqOptimizer) -> None:
    """Run ``optimizer.step()``, with gradients that were divided by the loss scale once.

    fairseq's ``--amp`` divides twice: it unscales for the inner optimizer when it clips, and then gives the outer one
    to PyTorch's scaler, which has not seen that one before (fairseq/optim/amp_optimizer.py:54 and :49). As the scale
    grows, gradients shrink towards Adam's epsilon and updates fade.
    """
    if isinstance(optimizer, AMPOptimizer):
        optimizer.scaler.step(optimizer.optimizer)
        optimizer.scaler.update()
    else:
        optimizer.step()

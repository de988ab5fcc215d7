"""Levels: which network a model runs, and which parameters of it have gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.partition.tags import parameter_level


def partitioned_modules(model: nn.Module) -> list[PartitionedModule]:
    """The partitioned layers of ``model``.

    Raises:
        ValueError: there are none, so that a level would silently mean nothing.
    """
    # modules() and not an attribute of the model: fairseq's data-parallel proxies forward reads only.
    found = [m for m in model.modules() if isinstance(m, PartitionedModule)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no partitioned layer; call partition_model_ on it first")
    return found


def set_level(model: nn.Module, level: int) -> None:
    """Run ``model`` at ``level`` from now on.

    Raises:
        ValueError: the model has no partitioned layer, or does not hold that level.
    """
    modules = partitioned_modules(model)
    for module in modules:
        module.check_level(level)
    for module in modules:
        module.level = level


@contextmanager
def use_level(model: nn.Module, level: int) -> Iterator[None]:
    """Run ``model`` at ``level`` inside the context; every layer's previous level comes back on exit.

    Forward *and* backward belong inside: activation checkpointing runs the forward again in backward.

    Raises:
        ValueError: as :func:`set_level`.
    """
    previous = [(module, module.level) for module in partitioned_modules(model)]
    set_level(model, level)
    try:
        yield
    finally:
        for module, old_level in previous:
            module.level = old_level


def freeze_above(model: nn.Module, level: int) -> None:
    """Have gradients for the parameters of ``level`` and below only, until the next call.

    This is no mask (the optimizer is) but it spares work: fairseq fills the missing gradient of a parameter with zeros
    before it reduces (fairseq/distributed/legacy_distributed_data_parallel.py:134) and converts it to float32
    (fairseq/optim/fp16_optimizer.py:143), unless the parameter needs none.
    """
    for module in partitioned_modules(model):
        for parameter in module.parameters(recurse=False):
            if parameter_level(parameter) > CORE_LEVEL:  # the core is trained by every update
                parameter.requires_grad_(parameter_level(parameter) <= level)

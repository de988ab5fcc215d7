"""Set which network a model runs, and which of its parameters get gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.partition import CORE_LEVEL, Partition
from fairseq_ats.partition.tags import holds, levels_of


def partitioned_modules(model: nn.Module) -> list[PartitionedModule]:
    """Return the partitioned layers of ``model``.

    Raises:
        ValueError: there are none, so a level would mean nothing.
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
    _set_level(partitioned_modules(model), level)


def _set_level(modules: Sequence[PartitionedModule], level: int) -> None:
    for module in modules:
        module.check_level(level)
    for module in modules:
        module.level = level


@contextmanager
def use_level(model: nn.Module, level: int) -> Iterator[None]:
    """Run ``model`` at ``level`` inside the context, and restore every layer's previous level on exit.

    Forward *and* backward belong inside: activation checkpointing runs the forward again in backward.

    Raises:
        ValueError: see :func:`set_level`.
    """
    modules = partitioned_modules(model)
    previous = [module.level for module in modules]
    _set_level(modules, level)
    try:
        yield
    finally:
        for module, old_level in zip(modules, previous, strict=True):
            module.level = old_level


def freeze_outside(model: nn.Module, levels: Collection[int]) -> None:
    """Compute gradients only for the parameters of the networks of ``levels``, until the next call.

    A parameter that belongs to every level that the model holds is left as it is.

    This is no mask (the optimizer holds the mask) but it saves work: fairseq fills the missing gradient of a parameter
    with zeros before it reduces (fairseq/distributed/legacy_distributed_data_parallel.py:134) and converts it to
    float32 (fairseq/optim/fp16_optimizer.py:143), unless the parameter needs none.
    """
    every_level = set(range(CORE_LEVEL, partitioned_modules(model)[0].max_level + 1))
    for parameter in model.parameters():
        own = levels_of(parameter)
        if own is not None and own != every_level:
            parameter.requires_grad_(not own.isdisjoint(levels))


def refuse_equal_levels(layers: Sequence[PartitionedModule], partition: Partition) -> None:
    """Refuse two levels at which every layer has the same size.

    A single layer may have the same size at two levels; the block between them is then empty.

    Raises:
        ValueError: two levels are the same network.
    """
    parameters = [p for layer in layers for p in layer.parameters() if p.numel() > 0]
    for level in partition.levels[1:]:
        if all(holds(p, level) == holds(p, level - 1) for p in parameters):
            raise ValueError(
                f"{partition.sizes}, and in a model of these sizes levels {level - 1} and {level} are the same "
                "network; allowed: numbers that give them different sizes"
            )

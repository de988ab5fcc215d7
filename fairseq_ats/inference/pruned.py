"""Run a model with the neurons that ``--scheme prune`` keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fairseq.models.transformer import TransformerModelBase
from torch import Tensor

from fairseq_ats.architectures.transformer_parts import parts_of
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import SCHEME_KEY
from fairseq_ats.partition.partition import PERTURBED


def kept_neurons(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """Return which neurons of each group a checkpoint's run keeps, (neurons,), bool; nothing if it prunes none."""
    kept = (checkpoint.state["task_state"].get(SCHEME_KEY) or {}).get("state", {})
    return kept if all(one.dtype == torch.bool and one.ndim == 1 for one in kept.values()) else {}


def prune_(model: TransformerModelBase, checkpoint: Checkpoint) -> int:
    """Make the highest network of a checkpoint run without the pruned neurons; return how many parameters they have.

    Raises:
        ValueError: the checkpoint does not say which neurons these are.
    """
    kept, groups = kept_neurons(checkpoint), parts_of(model).hidden
    if not groups or any(group.name not in kept for group in groups):
        raise ValueError(f"--level is {PERTURBED} and {checkpoint.path} has no neurons that --scheme prune chose")
    pruned = 0
    for group in groups:
        for layer, _ in group.layers:
            layer.units = kept[group.name].nonzero().flatten()
        pruned += sum(int((~owned.spread(kept[group.name])).expand_as(owned.parameter).sum()) for owned in group.owned)
    return pruned

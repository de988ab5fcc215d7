"""Give each level of a Transformer its layers and norms."""

from __future__ import annotations

import copy
from functools import cache
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from fairseq_ats.modules.layers import PartitionedLayers
from fairseq_ats.modules.norm import PrivateNorm
from fairseq_ats.partition.fields import SIDES, PrivateNorms
from fairseq_ats.partition.partition import Partition


def partition_depth_(model: Any, partition: Partition) -> None:
    """Replace the layers of the encoder and of the decoder by stacks of which each level runs some, in place.

    Layers that no level of the model runs are dropped.

    Raises:
        ValueError: the model has too few layers, or its layers are dropped at random or share parameters.
    """
    for name in SIDES:
        side, option = getattr(model, name), f"--core-{name}-layers"
        total = side.num_layers
        chosen = partition.layers_at(name, total)
        if chosen is None:
            continue
        asked = max(getattr(partition, f"core_{name}_layers"))
        if asked > total:
            raise ValueError(f"{option} is {asked}; allowed: up to {total}, the value of --{name}-layers")
        cfg = getattr(model.cfg, name)
        for drop, value in (("layerdrop", cfg.layerdrop or None), ("layers-to-keep", cfg.layers_to_keep)):
            if value is not None:
                raise ValueError(f"{option} is {asked} and --{name}-{drop} is {value}; leave one of them out")
        layers = list(side.layers)
        if any(set(one.parameters()) & set(other.parameters()) for one, other in combinations(layers, 2)):
            raise ValueError(f"{option} is {asked}, and layers of the {name} share parameters; leave the option out")
        zeros_skip = cfg.normalize_before and all(getattr(layer, "w_resid", None) is None for layer in layers)
        side.layers = PartitionedLayers(layers, chosen, partition.max_level, zeros_skip)
        side.num_layers = len(side.layers)
        if name == "decoder":
            side.__class__ = _with_alignment_of_level(side.__class__)


def stacks(model: nn.Module) -> list[PartitionedLayers]:
    """Return the stacks of which not every level runs all layers."""
    return [module for module in model.modules() if isinstance(module, PartitionedLayers)]


def make_norms_private_(model: Any, partition: Partition) -> None:
    """Replace norms by norms of which each network has its own, in place.

    Raises:
        ValueError: the model has no final norm.
    """
    if partition.private_norms == PrivateNorms.NONE:
        return
    owners: list[nn.Module] = [model.encoder, model.decoder]
    if partition.private_norms == PrivateNorms.ALL:
        owners = list(model.modules())
    elif any(side.layer_norm is None for side in owners):
        raise ValueError("--private-norms is final, and this --arch has no norm after its layers; allowed: none, all")
    levels_of_module = {
        module: stack.levels_at(int(index))
        for stack in stacks(model)
        for index, layer in stack.named_children()
        for module in layer.modules()
    }
    for owner in owners:
        for name, norm in list(owner.named_children()):
            # layer_norm, self_attn_layer_norm, layernorm_embedding, ...; apex has a class of its own.
            if hasattr(norm, "normalized_shape"):
                own = {level: copy.deepcopy(norm) for level in levels_of_module.get(owner, partition.levels)}
                setattr(owner, name, PrivateNorm(own, partition.super_level, partition.max_level))


class _AlignmentOfLevel:
    """A decoder whose attention weights are those of a layer that runs.

    fairseq asks for the weights of the last layer of the whole stack, or of ``--alignment-layer``
    (fairseq/models/transformer/transformer_decoder.py, ``extract_features_scriptable``).
    """

    layers: PartitionedLayers

    def extract_features(self, *inputs: Any, alignment_layer: int | None = None, **others: Any) -> tuple[Tensor, Any]:
        last = len(self.layers) - 1
        layer = last if alignment_layer is None else min(alignment_layer, last)
        return super().extract_features(*inputs, alignment_layer=layer, **others)  # type: ignore[misc]  # a mixin


@cache
def _with_alignment_of_level(decoder: type) -> type:
    return type(decoder.__name__, (_AlignmentOfLevel, decoder), {})

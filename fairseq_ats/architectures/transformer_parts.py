"""Say what a partitioned Transformer consists of."""

from __future__ import annotations

from torch import nn

from fairseq_ats.architectures.parts import ModelParts, NeuronGroup, Owned
from fairseq_ats.architectures.transformer import attentions, transformer_layers
from fairseq_ats.modules.linear import PartitionedLinear
from fairseq_ats.modules.linear_base import PartitionedLinearModule


def parts_of(model: nn.Module) -> ModelParts:
    """Return the parts of a partitioned Transformer.

    Neurons are what :class:`PartitionedLinear` divides, so a low-rank model has none: the hidden neurons of each
    feed-forward module, and the key/query dimensions of each attention, the same in every head. Embeddings belong to
    the first layer. Everything else outside the layers belongs to the last layer.
    """
    layers = transformer_layers(model)
    names = {module: name for name, module in model.named_modules()}
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear | PartitionedLinearModule)]
    named = [(f"{names[m]}.{own}", p) for m in linears for own, p in m.named_parameters(recurse=False)]
    of_layers = [list(layer.parameters()) for layer in layers]
    inside = {p for of_layer in of_layers for p in of_layer}
    for name, p in model.named_parameters():
        if p not in inside:
            of_layers[0 if "embed" in name else -1].append(p)
    return ModelParts(
        parameters=dict(model.named_parameters()),
        weights={name: p for name, p in named if p.ndim == 2},
        linears=linears,
        hidden=_groups([(names[layer], layer.fc1, layer.fc2) for layer in layers]),
        keys=_groups([(names[attention], attention.k_proj, attention.q_proj) for attention in attentions(model)]),
        layers=of_layers,
    )


def _groups(pairs: list[tuple[str, nn.Module, nn.Module]]) -> list[NeuronGroup]:
    """Return the groups of neurons between two layers; the values leave through the second of each pair."""
    groups = []
    for name, first, second in pairs:
        if isinstance(first, PartitionedLinear) and isinstance(second, PartitionedLinear):
            layers = ((first, False), (second, True))
            owned = [Owned(*block, leaves) for layer, leaves in layers for block in layer.unit_blocks()]
            groups.append(NeuronGroup(name, first.units_held, owned, layers))
    return groups

"""Fold a partitioned model into the parameters of a stock fairseq Transformer that computes the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fairseq.models.transformer import TransformerModelBase
from torch import Tensor, nn

from fairseq_ats.architectures.transformer import attentions
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.modules.blocks import join
from fairseq_ats.modules.linear import OUTPUT_DIM, PartitionedLinear
from fairseq_ats.modules.linear_base import PartitionedLinearModule
from fairseq_ats.modules.norm import PrivateNorm
from fairseq_ats.partition.fields import SIDES
from fairseq_ats.partition.partition import CORE


def stock_parameters(model: TransformerModelBase) -> dict[str, Tensor]:
    r"""Return the model at its level as a stock state dict.

    Each partitioned layer becomes one dense weight. In the super-network the weight is :math:`W + VU` (low rank) or all
    blocks side by side (small width). Below it the weight is :math:`VU` or the level's blocks. The feed-forward layers
    of a small-width core stay narrow; see :func:`side_sizes`. The layers that the level runs are numbered from 0.

    The projections of a small-width core's attention become full width, because stock fairseq gives every head
    ``embed_dim / heads`` dimensions. Zeros fill each head: rows of queries, keys and values, columns of outputs.
    Nothing changes: the new terms of a head's :math:`q \cdot k` are zero, the partitioned attention also scales by
    :math:`head\_dim^{-1/2}` of the full head dimension, and the new values are zero.
    """
    parameters = {name: value.detach() for name, value in model.state_dict().items()}
    in_attention = {id(child) for attention in attentions(model) for child in attention.children()}
    for name, layer in model.named_modules():
        if isinstance(layer, PrivateNorm):
            _replace(parameters, name, layer, layer.active.state_dict())
        elif isinstance(layer, PartitionedLinearModule):
            weight, bias = layer.weight, layer.bias
            if isinstance(layer, PartitionedLinear) and id(layer) in in_attention:
                weight, bias = _at_full_width(layer, weight, bias)
            _replace(parameters, name, layer, {"weight": weight} | ({} if bias is None else {"bias": bias}))
    for side in SIDES:
        parameters = _numbered(parameters, side)
    return parameters


def _replace(parameters: dict[str, Tensor], name: str, layer: nn.Module, stock: Mapping[str, Tensor]) -> None:
    """Put a stock layer's parameters in the place of a layer's own, in place."""
    for own in layer.state_dict():
        del parameters[f"{name}.{own}"]
    parameters |= {f"{name}.{what}": value.detach() for what, value in stock.items()}


def _at_full_width(layer: PartitionedLinear, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Fill each head with zeros up to its full width."""
    size = (layer.out_features, layer.in_features)[layer.dim]
    if bias is not None and layer.splits_bias:
        bias = _fill_up(bias, size, OUTPUT_DIM, layer.groups)
    return _fill_up(weight, size, layer.dim, layer.groups), bias


def _fill_up(narrow: Tensor, size: int, dim: int, groups: int) -> Tensor:
    """Append zeros along ``dim`` to each of ``groups`` equal groups, so that there are ``size`` entries in all."""
    missing = list(narrow.shape)
    missing[dim] = size - narrow.shape[dim]
    return join([narrow, narrow.new_zeros(missing)], dim, groups)


def _numbered(parameters: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """Number the layers of one side from 0, in their order."""
    layer = re.compile(rf"(?<=^{side}\.layers\.)\d+")
    indices = sorted({int(found[0]) for found in map(layer.search, parameters) if found})
    return {layer.sub(lambda old: str(indices.index(int(old[0]))), name): value for name, value in parameters.items()}


def side_sizes(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Return fairseq's sizes of the encoder and of the decoder: numbers of layers and of hidden neurons.

    A side without layers has no entry.
    """
    sizes = {}
    for side in SIDES:
        hidden = [value.shape[0] for name, value in parameters.items() if re.match(rf"{side}.*\.fc1\.weight", name)]
        if hidden:
            sizes[side] = {"layers": len(hidden), "ffn_embed_dim": hidden[0]}
    return sizes


def check_dense(source: SourceNetwork, dense: bool, output_format: str) -> None:
    """Require ``--dense`` to multiply out a low-rank network, because it then loses its savings.

    Raises:
        ValueError: the network is of low rank and ``dense`` is False, or it is not of low rank and ``dense`` is True.
    """
    if source.is_low_rank and not dense:
        keep = "--to onnx and --to core keep" if source.name == CORE else "--to onnx keeps"
        raise ValueError(
            f"--to {output_format} has dense layers only, and this {source.title} is of low rank; {keep} its "
            f"layers thin, --dense makes them dense, and the {source.title} then is as large as the super-network"
        )
    if dense and not source.is_low_rank:
        raise ValueError(f"--dense is for a low-rank core; this is the {source.title} of {source.partition}")


def dense_cost(source: SourceNetwork) -> Iterator[str]:
    """Yield one line on the cost of multiplying out a low-rank network; nothing for another network."""
    if source.is_low_rank:
        thin, dense = source.parameters, _parameters_when_dense(source.model)
        bytes_more = 4 * (dense - thin)  # float32
        yield f"dense: {thin:,} parameters become {dense:,} ({dense / thin:.2f} times; {bytes_more:,} bytes more)"


def _parameters_when_dense(model: TransformerModelBase) -> int:
    total = sum(p.numel() for p in model.parameters())
    for layer in model.modules():
        if isinstance(layer, PartitionedLinearModule):
            thin = sum(p.numel() for p in layer.parameters(recurse=False))
            total += layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel()) - thin
    return total

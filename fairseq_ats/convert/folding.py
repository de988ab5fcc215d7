"""Fold a partitioned model into the parameters of a stock fairseq Transformer that computes the same."""

from __future__ import annotations

from collections.abc import Iterator

from fairseq.models.transformer import TransformerModelBase
from torch import Tensor

from fairseq_ats.architectures.transformer import attentions
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.modules.blocks import join
from fairseq_ats.modules.linear import OUTPUT_DIM, PartitionedLinear
from fairseq_ats.modules.linear_base import PartitionedLinearModule
from fairseq_ats.partition.partition import CORE


def stock_parameters(model: TransformerModelBase) -> dict[str, Tensor]:
    r"""Return the model at its level as a stock state dict.

    Each partitioned layer becomes one dense weight. In the super-network the weight is :math:`W + VU` (low rank) or all
    blocks side by side (small width). Below it the weight is :math:`VU` or the level's blocks. The feed-forward layers
    of a small-width core stay narrow; see :func:`feed_forward_sizes`.

    The keys and queries of a small-width core become full width, because stock fairseq gives every head
    ``embed_dim / heads`` dimensions. Rows of zeros fill each head. The scores do not change: the new terms of a head's
    :math:`q \cdot k` are zero, and the partitioned attention also scales by :math:`head\_dim^{-1/2}` of the full head
    dimension.
    """
    parameters = {name: value.detach() for name, value in model.state_dict().items()}
    widened = {id(projection) for attention in attentions(model) for projection in (attention.q_proj, attention.k_proj)}
    for name, layer in model.named_modules():
        if not isinstance(layer, PartitionedLinearModule):
            continue
        for own, _ in layer.named_parameters(recurse=False):
            del parameters[f"{name}.{own}"]
        weight, bias = layer.weight, layer.bias
        # Only a small-width layer can be narrow: a low-rank layer has the full width at every level.
        if isinstance(layer, PartitionedLinear) and id(layer) in widened and weight.shape[0] < layer.out_features:
            weight = _fill_up(weight, layer.out_features, layer.groups)
            bias = None if bias is None else _fill_up(bias, layer.out_features, layer.groups)
        parameters[f"{name}.weight"] = weight.detach()
        if bias is not None:
            parameters[f"{name}.bias"] = bias.detach()
    return parameters


def _fill_up(rows: Tensor, size: int, groups: int) -> Tensor:
    """Append rows of zeros to each of ``groups`` equal groups, so that there are ``size`` rows in all."""
    return join([rows, rows.new_zeros(size - rows.shape[0], *rows.shape[1:])], OUTPUT_DIM, groups)


def feed_forward_sizes(parameters: dict[str, Tensor]) -> dict[str, int]:
    """Return the number of hidden neurons of a feed-forward module: ``{"encoder": ..., "decoder": ...}``.

    A side without layers has no entry.
    """
    first = {side: parameters.get(f"{side}.layers.0.fc1.weight") for side in ("encoder", "decoder")}
    return {side: weight.shape[0] for side, weight in first.items() if weight is not None}


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

"""Order hidden neurons and key/query dimensions by importance. The model's function stays the same.

A small-width core keeps the *first* rows of each layer and of each head. Each larger network adds the rows after them.
In a trained model the first rows are no better than the others. A warm start can therefore move the important rows to
the front.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_ats.architectures.transformer import attentions, transformer_layers


@torch.no_grad()
def order_by_importance_(model: nn.Module, orders_values: bool = False) -> None:
    r"""Order a stock Transformer's neurons, the most important first, in place.

    In a feed-forward module, :math:`\sum_i v_i\, f(u_i x + b_i)`, one permutation of the hidden neurons applies to both
    layers. In a head, :math:`\sum_i (q_i x + a_i)(k_i y + c_i)`, one permutation of the dimensions applies to queries
    and keys. Each sum keeps its terms in another order, so the function is the same up to rounding.

    The importance of term i is the product of the norms of its two vectors, with the bias as one more entry of a
    vector: :math:`\|(u_i, b_i)\| \|v_i\|` and :math:`\|(q_i, a_i)\| \|(k_i, c_i)\|`. If f were the identity,
    the product would be the Frobenius norm of term i, a matrix of rank one. The product does not change if one vector
    is scaled up and the other down; the norm of one vector does. Ranking neurons by weight norms before narrowing is
    common: He et al., "Reshaping deep neural network for fast decoding by node-pruning" (ICASSP 2014); Cai et al.,
    "Once for All" (ICLR 2020). Not in the paper.

    Args:
        orders_values: also order the dimensions of the values of each head, as the hidden neurons: the paper's cores
            have all of them.
    """
    for layer in transformer_layers(model):
        _order_inside_(layer.fc1, layer.fc2)
    for attention in attentions(model):
        importance = _row_norms(attention.q_proj) * _row_norms(attention.k_proj)
        order = _descending(importance, groups=attention.num_heads)
        _permute_rows_(attention.q_proj, order)
        _permute_rows_(attention.k_proj, order)
        if orders_values:
            _order_inside_(attention.v_proj, attention.out_proj, attention.num_heads)


def _order_inside_(writes: nn.Linear, reads: nn.Linear, groups: int = 1) -> None:
    """Order the dimensions that one layer writes and another reads, within each group."""
    order = _descending(_row_norms(writes) * reads.weight.norm(dim=0), groups)
    _permute_rows_(writes, order)
    reads.weight.copy_(reads.weight[:, order])


def _row_norms(linear: nn.Linear) -> Tensor:
    """Return the norm of each row with its bias, (out,)."""
    if linear.bias is None:
        return linear.weight.norm(dim=1)
    return torch.cat([linear.weight, linear.bias[:, None]], dim=1).norm(dim=1)


def _descending(importance: Tensor, groups: int = 1) -> Tensor:
    """Return the indices (n,) that sort the scores (n,) in descending order within each group.

    The scores form ``groups`` consecutive groups of equal size. Equal scores keep their order.
    """
    grouped = importance.unflatten(0, (groups, -1))
    within = grouped.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(groups, device=importance.device)[:, None] * grouped.shape[1]
    return (first + within).flatten()


def _permute_rows_(linear: nn.Linear, order: Tensor) -> None:
    linear.weight.copy_(linear.weight[order])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[order])

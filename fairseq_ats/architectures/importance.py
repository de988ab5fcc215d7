"""Order hidden neurons and key/query dimensions by importance; the model computes what it computed before.

A small-width core keeps the *first* rows of each layer, and of each head; each larger network adds the rows after them.
In a trained model these are no better than any others, so that a warm start may put the more important ones first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_ats.architectures.transformer import attentions, transformer_layers


@torch.no_grad()
def order_by_importance_(model: nn.Module) -> None:
    r"""Order a stock Transformer's neurons, the most important first, in place.

    Hidden neurons of a feed-forward module, :math:`\sum_i v_i\, f(u_i x + b_i)`, are permuted jointly in both layers.
    Key/query dimensions of a head, :math:`\sum_i (q_i x + a_i)(k_i y + c_i)`, are permuted jointly in queries and keys,
    within the head. Either sum keeps its terms, hence the function is the same up to the rounding of another order.

    The importance of term i is the product of its two vectors' norms, with the bias as one more entry of the vector:
    :math:`\|(u_i, b_i)\| \|v_i\|` and :math:`\|(q_i, a_i)\| \|(k_i, c_i)\|`. It is the Frobenius norm of the rank-one
    term that the sum would lose if f were the identity, and unlike the norm of one side it does not change if one
    vector is scaled up and the other down. Ranking neurons by weight norms before narrowing is common: He et al.,
    "Reshaping deep neural network for fast decoding by node-pruning" (ICASSP 2014); Cai et al., "Once for All"
    (ICLR 2020). Not in the paper.
    """
    for layer in transformer_layers(model):
        order = _descending(_row_norms(layer.fc1) * layer.fc2.weight.norm(dim=0))
        _permute_rows_(layer.fc1, order)
        layer.fc2.weight.copy_(layer.fc2.weight[:, order])
    for attention in attentions(model):
        importance = _row_norms(attention.q_proj) * _row_norms(attention.k_proj)
        order = _descending(importance, groups=attention.num_heads)
        _permute_rows_(attention.q_proj, order)
        _permute_rows_(attention.k_proj, order)


def _row_norms(linear: nn.Linear) -> Tensor:
    """(out,): the norm of each row with its bias."""
    if linear.bias is None:
        return linear.weight.norm(dim=1)
    return torch.cat([linear.weight, linear.bias[:, None]], dim=1).norm(dim=1)


def _descending(importance: Tensor, groups: int = 1) -> Tensor:
    """Indices of (n,) scores from the highest down, within each of ``groups`` equal groups; equal scores stay."""
    grouped = importance.unflatten(0, (groups, -1))
    within = grouped.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(groups, device=importance.device)[:, None] * grouped.shape[1]
    return (first + within).flatten()


def _permute_rows_(linear: nn.Linear, order: Tensor) -> None:
    linear.weight.copy_(linear.weight[order])
    if linear.bias is not None:
        linear.bias.copy_(linear.bias[order])

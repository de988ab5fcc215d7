"""Describe what a model of any family consists of, for schemes that draw, order, prune or freeze parts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Owned:
    """What the neurons of a group own of one parameter: each of its rows or columns has an owner.

    Args:
        parameter: the parameter.
        dim: 0 for rows (also the elements of a bias), 1 for columns.
        owner: (size of ``dim``,), the number of the neuron that owns each row or column.
        leaves: whether the neuron's value leaves through it; see :class:`NeuronGroup`.
    """

    parameter: nn.Parameter
    dim: int
    owner: Tensor
    leaves: bool

    def spread(self, values: Tensor) -> Tensor:
        """Return the values of the neurons, (neurons,), as a tensor that broadcasts to the parameter."""
        shape = [1] * self.parameter.ndim
        shape[self.dim] = -1
        return values.to(self.parameter.device)[self.owner.to(self.parameter.device)].view(shape)


@dataclass(frozen=True, eq=False)
class NeuronGroup:
    r"""Neurons that are the terms of one sum, :math:`\sum_i v_i f(u_i x + b_i)` or :math:`\sum_i q_i k_i`.

    The value of a term leaves through :math:`v_i` or :math:`q_i`. A factor on these scales the term once.

    Args:
        name: unlike that of any other group of the model.
        size: the number of neurons.
        owned: what they own. A term of a convolution may own a channel, which is a row with all its elements.
        layers: the layers that can compute with some of the neurons alone, and whether the values leave through the
            layer. Their attributes ``units`` (the numbers of these neurons) and ``unit_scale`` say so. Empty: there is
            no such shorter way.
    """

    name: str
    size: int
    owned: Sequence[Owned]
    layers: Sequence[tuple[nn.Module, bool]] = ()

    @torch.no_grad()
    def importance(self) -> Tensor:
        """Return the product of the norms of both vectors of each term, (neurons,), as
        :func:`~fairseq_ats.architectures.importance.order_by_importance_` orders them.
        """
        squares = torch.zeros(2, self.size, dtype=torch.float64)
        for one in self.owned:
            rows = one.parameter.double().square().transpose(0, one.dim).flatten(1 if one.parameter.ndim > 1 else 0)
            squares[int(one.leaves)].index_add_(0, one.owner, (rows if rows.ndim == 1 else rows.sum(1)).cpu())
        return squares.prod(0).sqrt()


@dataclass(frozen=True, eq=False)
class ModelParts:
    """The parts of a model.

    Args:
        parameters: every parameter, by name.
        weights: the weight matrices of linear layers (convolutions), without embeddings and the output, by name.
        linears: these layers. Each has a ``weight`` and a ``bias``, and maps (*, in) to (*, out).
        hidden: the groups of hidden neurons. A model stays of its family if each group loses the same share.
        keys: the groups of key/query dimensions.
        layers: the parameters of each layer from the input to the output. Each parameter is in one of them.
    """

    parameters: Mapping[str, nn.Parameter]
    weights: Mapping[str, nn.Parameter]
    linears: Sequence[nn.Module]
    hidden: Sequence[NeuronGroup]
    keys: Sequence[NeuronGroup]
    layers: Sequence[Sequence[nn.Parameter]]

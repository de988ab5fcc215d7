"""Put a model at a point: where an update, or the monitor, takes a gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim.mask import Mask

OfParameters = Mapping[nn.Parameter, Tensor]


class Point(ABC):
    """A point x + δx_t, where x are the parameters as they are."""

    # The network that runs.
    level: int

    @abstractmethod
    def of(self, model: nn.Module) -> AbstractContextManager[None]:
        """Put ``model`` at this point inside the context, and restore it on exit, whatever happens.

        Forward *and* backward belong inside.
        """

    @property
    def reference(self) -> Point:
        """The same point, computed in full: every layer has its usual shapes, so dropout draws as it does at x."""
        return self


@dataclass(frozen=True)
class NetworkPoint(Point):
    """The network of ``level`` as it is: δx_t = −(1 − p) ⊙ x, without computing with the zeros."""

    level: int

    def of(self, model: nn.Module) -> AbstractContextManager[None]:
        return use_level(model, self.level)


class ValuePoint(Point):
    """A point at which parameters have other values: any perturbation, on any model, exactly. It saves no work."""

    @abstractmethod
    def value(self, p: nn.Parameter) -> Tensor | None:
        """Return the value of a parameter at this point; None: its own."""

    def gradient_scale(self, p: nn.Parameter) -> Tensor | None:
        """Return what the gradient of a parameter is multiplied by before it is accumulated; None: nothing."""
        return None

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        own, hooks = [], []
        try:
            for p in model.parameters():
                value, scale = self.value(p), self.gradient_scale(p)
                if value is not None:
                    own.append((p, p.data))
                    p.data = value
                if scale is not None and p.requires_grad:
                    hooks.append(p.register_hook(_times(scale)))
            with use_level(model, self.level):
                yield
        finally:
            for p, data in own:
                p.data = data
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class MaskedPoint(ValuePoint):
    """p ⊙ x: the network of ``level``, with zeros outside the mask."""

    level: int
    mask: Mask

    def value(self, p: nn.Parameter) -> Tensor | None:
        selected = self.mask.of(p)
        if selected is True:
            return None
        return torch.zeros_like(p.data) if selected is False else p.data * selected


@dataclass(frozen=True, eq=False)
class MovedPoint(ValuePoint):
    r"""x̃ = v + s ⊙ (x − v) + d, for the parameters that the mappings hold.

    By the chain rule the gradient of :math:`x \mapsto f(\tilde{x})` is :math:`s \odot \nabla f(\tilde{x})`. With s in
    {0, 1} that is Algorithm 1's :math:`p \odot \nabla f(\tilde{x})`.

    Args:
        level: the network that runs.
        scales: s ≥ 0; each tensor broadcasts to its parameter.
        shift: v; zero where it is not given.
        offset: d.
        scales_gradient: False leaves the gradient :math:`\nabla f(\tilde{x})`.
        base: x, where it is not the parameters as they are.
    """

    level: int
    scales: OfParameters = field(default_factory=dict)
    shift: OfParameters = field(default_factory=dict)
    offset: OfParameters = field(default_factory=dict)
    scales_gradient: bool = True
    base: OfParameters = field(default_factory=dict)

    def value(self, p: nn.Parameter) -> Tensor | None:
        value = self.base.get(p, p.data)
        if p in self.scales:
            shift = self.shift.get(p)
            value = value * self.scales[p] if shift is None else shift + self.scales[p] * (value - shift)
        if p in self.offset:
            return value + self.offset[p]
        return value if p in self.scales or p in self.base else None

    def gradient_scale(self, p: nn.Parameter) -> Tensor | None:
        return self.scales.get(p) if self.scales_gradient else None


@dataclass(frozen=True, eq=False)
class UnitsPoint(Point):
    """A point at which layers compute with some of their units, and with no zeros in place of the others.

    Args:
        full: the same point, with the zeros.
        units: the numbers of each layer's units, and their ``unit_scale``; see
            :class:`~fairseq_ats.architectures.parts.NeuronGroup`.
    """

    full: Point
    units: Mapping[Any, tuple[Tensor, float]]

    @property
    def level(self) -> int:  # type: ignore[override]  # a field of other points
        return self.full.level

    @property
    def reference(self) -> Point:
        return self.full

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        try:
            for layer, (units, scale) in self.units.items():
                layer.units, layer.unit_scale = units, scale
            with use_level(model, self.level):
                yield
        finally:
            for layer in self.units:
                layer.units, layer.unit_scale = None, 1.0


def _times(scale: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * scale

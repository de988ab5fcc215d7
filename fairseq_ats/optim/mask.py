"""The mask p_t of partial SGD: what one update may move, and optimizers that move nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_ats.partition.tags import holds, levels_of

# What a mask selects of a parameter: all of it (True), nothing (False), or the true elements of a bool tensor. The
# tensor broadcasts to the parameter: (out, 1) selects rows, (1, in) columns.
Selection = bool | Tensor


class Mask:
    """What one update may move; this base class selects everything."""

    def of(self, parameter: nn.Parameter) -> Selection:
        """Return what is selected of a parameter."""
        return True

    def check(self, held: Collection[nn.Parameter]) -> None:
        """Raise ValueError if this mask means nothing for the parameters that an optimizer holds."""

    def leaves_out_super(self, held: Collection[nn.Parameter]) -> bool:
        """Return whether the update trains only networks below the super-network."""
        return False


@dataclass(frozen=True)
class LevelMask(Mask):
    """The parameters of the networks of ``levels`` move, each as a whole."""

    levels: Collection[int]

    def of(self, parameter: nn.Parameter) -> Selection:
        return any(holds(parameter, level) for level in self.levels)

    def check(self, held: Collection[nn.Parameter]) -> None:
        """Raise ValueError if no parameter is tagged: nothing could be masked."""
        if all(levels_of(p) is None for p in held):
            raise ValueError(
                "the optimizer holds no parameter that is tagged with its levels; were the parameters copied? "
                "copy.deepcopy loses the tags"
            )

    def leaves_out_super(self, held: Collection[nn.Parameter]) -> bool:
        """Return whether the highest level of these parameters is not trained."""
        return max(frozenset().union(*(levels_of(p) or () for p in held))) not in self.levels


@dataclass(frozen=True, eq=False)
class ElementMask(Mask):
    """Each parameter moves as far as ``selections`` says; a parameter that is not in it moves as a whole."""

    selections: Mapping[nn.Parameter, Selection]

    def of(self, parameter: nn.Parameter) -> Selection:
        return self.selections.get(parameter, True)

    def check(self, held: Collection[nn.Parameter]) -> None:
        """Raise ValueError for a selection in a parameter that the optimizer does not hold: it would mask nothing."""
        if not self.selections.keys() <= set(held):
            raise ValueError(
                "the mask selects elements of parameters that the optimizer does not hold; --fp16 and --bf16 give it "
                "float32 copies instead"
            )


EVERYTHING = Mask()
NOTHING = LevelMask(())


def require_gradients(parameters: Iterable[nn.Parameter], mask: Mask) -> None:
    """Compute gradients only for what a mask selects of these parameters, until the next call.

    This is no mask, but it saves work: layers below the lowest that moves need no backward pass, and fairseq neither
    fills in a missing gradient nor reduces it (fairseq/distributed/legacy_distributed_data_parallel.py:134).
    """
    for p in parameters:
        p.requires_grad_(mask.of(p) is not False)


class MaskedStep(torch.optim.Optimizer):
    """Mixin before a ``torch.optim`` optimizer: a step leaves everything outside the mask bit for bit as it was.

    Weight, moments (momentum) and step count stay, and weight decay does nothing: each coordinate runs the optimizer
    on the subsequence of updates that select it. Outside :meth:`masked` every parameter moves.

    *Whole parameters.* "No gradient, so nothing happens" is not a mask: legacy_ddp and FP16Optimizer fill missing
    gradients with zeros (fairseq/distributed/legacy_distributed_data_parallel.py:137,
    fairseq/optim/fp16_optimizer.py:143), and an optimizer then moves the parameter by its momentum, decays it and
    counts the step. Here the gradients outside the mask are hidden during the step.

    *Elements.* See :meth:`step_elements`, which an optimizer with a step count overrides.

    The parameters stay in one group in the model's order, as in the optimizer without a mask.
    """

    mask: Mask = EVERYTHING
    lr_scale: float = 1.0
    alternate_lr_coef: float = 1.0  # --alternate-lr-coef

    @property
    def supports_flat_params(self) -> bool:
        """One flat tensor of all parameters cannot be masked; fairseq then asks for --fp16-no-flatten-grads."""
        return False

    @contextmanager
    def masked(self, mask: Mask, lr_scale: float = 1.0) -> Iterator[None]:
        """Make steps inside the context move what ``mask`` selects, with ``lr_scale`` times the learning rate.

        The rate is also multiplied by ``alternate_lr_coef`` if the update does not train the super-network. The paper
        does not say which updates the coefficient scales.

        Raises:
            ValueError: the mask means nothing for the parameters of this optimizer.
        """
        mask.check(self._held())
        if mask.leaves_out_super(self._held()):
            lr_scale *= self.alternate_lr_coef
        previous = self.mask, self.lr_scale
        self.mask, self.lr_scale = mask, lr_scale
        try:
            yield
        finally:
            self.mask, self.lr_scale = previous

    def step(self, closure: Any = None) -> Any:
        """Move what the mask selects."""
        loss = None if closure is None else closure()
        hidden: list[nn.Parameter] = []
        elements: dict[nn.Parameter, Tensor] = {}
        for p in self._held():
            selected = self.mask.of(p)
            if isinstance(selected, Tensor) and p.grad is not None:
                elements[p] = selected
            elif selected is False:
                hidden.append(p)
        with hidden_gradients(hidden), self._scaled_lr():
            with hidden_gradients(elements):
                super().step()
            if elements:
                self.step_elements(elements)
        return loss

    @torch.no_grad()
    def step_elements(self, selected: Mapping[nn.Parameter, Tensor]) -> None:
        """Move the selected elements of these parameters: make a whole step, then put back what is not selected.

        This is exact if the optimizer's state is nothing but tensors of the parameter's shape that start at zero: so
        for SGD with momentum and without dampening.

        Args:
            selected: bool tensors that broadcast to the parameters, which have gradients.

        Raises:
            TypeError: the optimizer counts steps; then a coordinate needs a count of its own.
        """
        before = {p: (p.detach().clone(), dict(self._state_like(p, copy=True))) for p in selected}
        with hidden_gradients([p for p in self._held() if p not in selected]):
            super().step()
        for p, (weight, state) in before.items():
            if "step" in self.state[p]:
                raise TypeError(f"{type(self).__name__} counts steps and masks no elements; override step_elements")
            p.copy_(torch.where(selected[p], p, weight))
            for name, value in self._state_like(p):
                value.copy_(torch.where(selected[p], value, state.get(name, 0)))

    def _held(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _state_like(self, p: nn.Parameter, copy: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every state tensor of the parameter's shape."""
        for name, value in self.state[p].items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                yield name, value.clone() if copy else value

    @contextmanager
    def _scaled_lr(self) -> Iterator[None]:
        """Scale the rate inside a step only: fairseq sets and logs the unscaled rate."""
        rates = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate * self.lr_scale
        try:
            yield
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


@contextmanager
def hidden_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Hide the gradients of these parameters inside the context; they are back afterwards, whatever happens."""
    hidden = [(p, p.grad) for p in parameters]
    for p, _ in hidden:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in hidden:
            p.grad = gradient

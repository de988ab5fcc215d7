"""Adam that leaves everything outside the active level exactly as it was."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import nn

from fairseq_ats.modules.partitioned_module import parameter_level
from fairseq_ats.optim.fused_adam import FusedAdam, hidden_gradients
from fairseq_ats.partition import CORE_LEVEL

OPTIMIZER_NAME = "adam_for_partitioned_model"


@dataclass
class AdamForPartitionedModelConfig(FairseqAdamConfig):
    """Defaults of Table 4 of the paper."""

    adam_betas: Any = field(default=(0.9, 0.98), metadata={"help": "betas for Adam optimizer"})
    adam_eps: float = field(default=1e-9, metadata={"help": "epsilon for Adam optimizer"})
    alternate_lr_coef: float = field(
        default=1.0,
        metadata={"help": "learning rate of an update that does not train the super-network, relative to --lr"},
    )


class AdamForPartitionedModel(FusedAdam):
    """Adam with a level: parameters above it are not touched by a step.

    "No gradient, so nothing happens" is not a mask: legacy_ddp and FP16Optimizer fill missing gradients with zeros
    (fairseq/distributed/legacy_distributed_data_parallel.py:137, fairseq/optim/fp16_optimizer.py:143), and Adam then
    moves the parameter by its momentum, decays it and counts the step. Here the gradients outside the level are
    hidden during the step, so that parameter, both moments and the step count stay bit for bit.

    The parameters stay in one group in the model's order, as in stock Adam.
    """

    def __init__(
        self,
        params: Any,
        masked_lr_coef: float,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.masked_lr_coef = masked_lr_coef
        # The highest that there is: nothing is masked.
        self.level = max(parameter_level(p) for group in self.param_groups for p in group["params"])

    @property
    def supports_flat_params(self) -> bool:
        """One flat tensor of all parameters cannot be masked; fairseq then asks for --fp16-no-flatten-grads."""
        return False

    @contextmanager
    def at_level(self, level: int) -> Iterator[None]:
        """Steps inside the context move parameters of ``level`` and below.

        Raises:
            ValueError: every parameter is the core's, so that nothing could be masked.
        """
        if not self._above(CORE_LEVEL):
            raise ValueError(
                f"the core is level {CORE_LEVEL} and the optimizer holds no parameter above it; were the parameters "
                "copied? copy.deepcopy loses their levels"
            )
        previous, self.level = self.level, level
        try:
            yield
        finally:
            self.level = previous

    def step(self, closure: Any = None) -> Any:
        masked = self._above(self.level)
        if not masked:
            return super().step(closure)
        with hidden_gradients(masked), self._scaled_lr(self.masked_lr_coef):
            return super().step(closure)

    def _above(self, level: int) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"] if parameter_level(p) > level]

    @contextmanager
    def _scaled_lr(self, factor: float) -> Iterator[None]:
        """Only inside a step: fairseq sets and logs the unscaled rate."""
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= factor
        try:
            yield
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


@register_optimizer(OPTIMIZER_NAME, dataclass=AdamForPartitionedModelConfig)
class FairseqAdamForPartitionedModel(FairseqAdam):
    """``--optimizer adam_for_partitioned_model``.

    The paper does not say which updates ``alternate_lr_coef`` scales; here it is those that do not train the
    super-network: with two networks the core's, with more those of every level below the highest.

    Raises:
        ValueError: an option of Adam outside its range.
    """

    def __init__(self, cfg: AdamForPartitionedModelConfig, params: Any) -> None:
        # Past FairseqAdam's own __init__, which may choose apex's Adam, which cannot be masked (optim/adam.py:53).
        FairseqOptimizer.__init__(self, cfg)
        self._check()
        self._optimizer = AdamForPartitionedModel(params, masked_lr_coef=cfg.alternate_lr_coef, **self.optimizer_config)

    def _check(self) -> None:
        if self.cfg.fp16_adam_stats:
            raise ValueError("--fp16-adam-stats is not supported by adam_for_partitioned_model")
        if not self.cfg.alternate_lr_coef > 0:
            raise ValueError(f"--alternate-lr-coef is {self.cfg.alternate_lr_coef}; allowed: > 0")
        try:
            beta1, beta2 = self.optimizer_config["betas"]
            allowed = 0 <= beta1 < 1 and 0 <= beta2 < 1
        except (TypeError, ValueError, SyntaxError, NameError):
            allowed = False
        if not allowed:
            raise ValueError(
                f"--adam-betas is {self.cfg.adam_betas}; allowed: two numbers in [0, 1), as in '(0.9, 0.98)'"
            )

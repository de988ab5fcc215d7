"""Adam that leaves everything outside the active level exactly as it was."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import ast
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import nn

from fairseq_ats.modules.partitioned_module import parameter_level
from fairseq_ats.optim.fused_adam import FusedAdam, hidden_gradients
from fairseq_ats.partition import CORE_LEVEL

logger = logging.getLogger(__name__)

OPTIMIZER_NAME = "adam_for_partitioned_model"

# Of --alternate-lr-coef, among the options of Adam's group.
_COEFFICIENT = "alternate_lr_coef"


@dataclass
class AdamForPartitionedModelConfig(FairseqAdamConfig):
    """Defaults of Table 4 of the paper."""

    adam_betas: Any = field(default=(0.9, 0.98), metadata={"help": "betas for Adam optimizer"})
    adam_eps: float = field(default=1e-9, metadata={"help": "epsilon for Adam optimizer"})
    alternate_lr_coef: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of an update that does not train the super-network, relative to --lr; default: as "
            "in the checkpoint of a resumed run, or 1"
        },
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
        # In the group, which is saved.
        self.param_groups[0][_COEFFICIENT] = masked_lr_coef
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
        with hidden_gradients(masked), self._scaled_lr(self.param_groups[0][_COEFFICIENT]):
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


def adam_problems(cfg: AdamForPartitionedModelConfig) -> list[str]:
    """One sentence for each option of the optimizer that is outside its range."""
    problems = []
    if cfg.fp16_adam_stats:
        problems.append("--fp16-adam-stats is not supported by adam_for_partitioned_model")
    if cfg.alternate_lr_coef is not None and not 0 < cfg.alternate_lr_coef < math.inf:
        problems.append(f"--alternate-lr-coef is {cfg.alternate_lr_coef}; allowed: > 0")
    if not 0 < cfg.adam_eps < math.inf:
        problems.append(f"--adam-eps is {cfg.adam_eps}; allowed: > 0")
    if not 0 <= cfg.weight_decay < math.inf:
        problems.append(f"--weight-decay is {cfg.weight_decay}; allowed: 0 or more")
    betas = cfg.adam_betas
    try:
        # fairseq would evaluate a string (optim/adam.py:91).
        beta1, beta2 = ast.literal_eval(betas) if isinstance(betas, str) else betas
        allowed = 0 <= beta1 < 1 and 0 <= beta2 < 1
    except (TypeError, ValueError, SyntaxError):
        allowed = False
    if not allowed:
        problems.append(f"--adam-betas is {betas}; allowed: two numbers in [0, 1), as in '(0.9, 0.98)'")
    return problems


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
        problems = adam_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        given = cfg.alternate_lr_coef
        coefficient = 1.0 if given is None else given
        self._optimizer = AdamForPartitionedModel(params, masked_lr_coef=coefficient, **self.optimizer_config)

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """fairseq's, which takes every option from the saved state; a coefficient that was given counts instead."""
        built = self.optimizer.param_groups[0][_COEFFICIENT]
        super().load_state_dict(state_dict, optimizer_overrides)
        (group,) = self.optimizer.param_groups
        saved = group.setdefault(_COEFFICIENT, built)  # older versions did not save it
        if self.cfg.alternate_lr_coef is not None and saved != built:
            logger.warning(f"the run was trained with --alternate-lr-coef {saved}, and it is {built} now")
            group[_COEFFICIENT] = built

"""``--optimizer adam_for_partitioned_model``: Adam with a mask."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import ast
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn

from fairseq_ats.optim.fused_adam import FusedAdam
from fairseq_ats.optim.mask import MaskedStep

logger = logging.getLogger(__name__)

OPTIMIZER_NAME = "adam_for_partitioned_model"

# Of --alternate-lr-coef, among the options of Adam's group.
_COEFFICIENT = "alternate_lr_coef"


@dataclass
class AdamForPartitionedModelConfig(FairseqAdamConfig):
    """Defaults of Table 4 of the paper."""

    adam_betas: Any = field(
        default=(0.9, 0.98),
        metadata={
            "help": "Adam's decay rates of the mean and of the squares of gradients; default: (0.9, 0.98), the paper's",
            "example": '--adam-betas "(0.9, 0.999)"',
        },
    )
    adam_eps: float = field(
        default=1e-9,
        metadata={
            "help": "Adam's term that keeps a denominator from zero; default: 1e-9, the paper's",
            "example": "--adam-eps 1e-8",
        },
    )
    alternate_lr_coef: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of an update that does not train the super-network, relative to --lr; default: as "
            "in the checkpoint of a resumed run, or 1",
            "example": "--alternate-lr-coef 0.5",
        },
    )


class AdamForPartitionedModel(MaskedStep, FusedAdam):
    """Adam that moves what the mask selects."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        # mypy looks at the base class of MaskedStep; what is called is FusedAdam, next in the order.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)  # type: ignore[call-arg]
        self.alternate_lr_coef = 1.0

    @property
    def alternate_lr_coef(self) -> float:
        """``--alternate-lr-coef``, in the group of parameters, which is saved."""
        return self.param_groups[0][_COEFFICIENT]

    @alternate_lr_coef.setter
    def alternate_lr_coef(self, value: float) -> None:
        self.param_groups[0][_COEFFICIENT] = value

    def step_elements(self, selected: Mapping[nn.Parameter, Tensor]) -> None:
        """Move the selected elements of these parameters, with a step count for each coordinate."""
        self.step_coordinates(selected)


def adam_problems(cfg: AdamForPartitionedModelConfig) -> list[str]:
    """Return one message for each option of the optimizer that is outside its range."""
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

    Raises:
        ValueError: an option is outside its range; see :func:`adam_problems`.
    """

    def __init__(self, cfg: AdamForPartitionedModelConfig, params: Any) -> None:
        # Not FairseqAdam's own __init__: it may choose apex's Adam, which cannot be masked (optim/adam.py:53).
        FairseqOptimizer.__init__(self, cfg)
        problems = adam_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        self._optimizer = AdamForPartitionedModel(params, **self.optimizer_config)
        if cfg.alternate_lr_coef is not None:
            self._optimizer.alternate_lr_coef = cfg.alternate_lr_coef

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """fairseq's, which takes every option from the saved state; a coefficient that was given counts instead."""
        built = self.optimizer.param_groups[0][_COEFFICIENT]
        super().load_state_dict(state_dict, optimizer_overrides)
        (group,) = self.optimizer.param_groups
        saved = group.setdefault(_COEFFICIENT, built)  # older versions did not save it
        if self.cfg.alternate_lr_coef is not None and saved != built:
            logger.warning(f"the run was trained with --alternate-lr-coef {saved}, and it is {built} now")
            group[_COEFFICIENT] = built

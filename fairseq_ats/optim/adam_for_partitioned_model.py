"""``--optimizer adam_for_partitioned_model``: Adam with a mask."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn

from fairseq_ats.optim.coefficient import CoefficientConfig, CoefficientInGroup, KeepsCoefficient, common_problems
from fairseq_ats.optim.fused_adam import FusedAdam
from fairseq_ats.optim.unreduced import ClipsAllGradients

OPTIMIZER_NAME = "adam_for_partitioned_model"


@dataclass
class AdamForPartitionedModelConfig(CoefficientConfig, FairseqAdamConfig):
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


class AdamForPartitionedModel(CoefficientInGroup, FusedAdam):
    """Adam that moves what the mask selects."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        # mypy looks at the base class of MaskedStep; what is called is FusedAdam, next in the order.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)  # type: ignore[call-arg]

    def step_elements(self, selected: Mapping[nn.Parameter, Tensor]) -> None:
        """Move the selected elements of these parameters, with a step count for each coordinate."""
        self.step_coordinates(selected)


def adam_problems(cfg: AdamForPartitionedModelConfig) -> list[str]:
    """Return one message for each option of the optimizer that is outside its range."""
    problems = common_problems(cfg)
    if cfg.fp16_adam_stats:
        problems.append("--fp16-adam-stats is not supported by adam_for_partitioned_model")
    if not 0 < cfg.adam_eps < math.inf:
        problems.append(f"--adam-eps is {cfg.adam_eps}; allowed: > 0")
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
class FairseqAdamForPartitionedModel(KeepsCoefficient, ClipsAllGradients, FairseqAdam):
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
        self.set_coefficient()

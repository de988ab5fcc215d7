"""``--optimizer sgd_for_partitioned_model``: SGD with momentum and a mask."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from fairseq_ats.optim.coefficient import CoefficientConfig, CoefficientInGroup, KeepsCoefficient, common_problems
from fairseq_ats.optim.unreduced import ClipsAllGradients

SGD_NAME = "sgd_for_partitioned_model"


@dataclass
class SGDForPartitionedModelConfig(CoefficientConfig):
    """Defaults of section 3.3 of the paper."""

    momentum: float = field(
        default=0.9, metadata={"help": "momentum of SGD; default: 0.9, the paper's", "example": "--momentum 0"}
    )
    weight_decay: float = field(
        default=5e-4,
        metadata={
            "help": "weight decay of SGD, also on norms and biases; default: 5e-4, the paper's",
            "example": "--weight-decay 1e-4",
        },
    )
    nesterov: bool = field(default=False, metadata={"help": "use Nesterov's momentum in SGD", "example": "--nesterov"})
    lr: Any = II("optimization.lr")


class SGDForPartitionedModel(CoefficientInGroup, torch.optim.SGD):
    """SGD that moves what the mask selects.

    A parameter's first update starts its momentum as torch's does: with the gradient itself. Each parameter, and each
    element of one, therefore runs SGD on the subsequence of updates that select it.
    """


def sgd_problems(cfg: SGDForPartitionedModelConfig) -> list[str]:
    """Return one message for each option of the optimizer that is outside its range."""
    problems = common_problems(cfg)
    if not 0 <= cfg.momentum < 1:
        problems.append(f"--momentum is {cfg.momentum}; allowed: 0 <= momentum < 1")
    if cfg.nesterov and cfg.momentum == 0:
        problems.append("--nesterov is given and --momentum is 0; allowed: a momentum above 0")
    return problems


@register_optimizer(SGD_NAME, dataclass=SGDForPartitionedModelConfig)
class FairseqSGDForPartitionedModel(KeepsCoefficient, ClipsAllGradients, FairseqOptimizer):
    """``--optimizer sgd_for_partitioned_model``.

    Raises:
        ValueError: an option is outside its range; see :func:`sgd_problems`.
    """

    def __init__(self, cfg: SGDForPartitionedModelConfig, params: Any) -> None:
        super().__init__(cfg)
        problems = sgd_problems(cfg)
        if problems:
            raise ValueError("; ".join(problems))
        self._optimizer = SGDForPartitionedModel(params, **self.optimizer_config)
        self.set_coefficient()

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Options of a group of parameters; a resumed run has its checkpoint's, but for --optimizer-overrides."""
        cfg = self.cfg
        lr = cfg.lr if isinstance(cfg.lr, float) else cfg.lr[0]
        return {
            "lr": lr,
            "momentum": cfg.momentum,
            "weight_decay": cfg.weight_decay,
            "nesterov": cfg.nesterov,
        }

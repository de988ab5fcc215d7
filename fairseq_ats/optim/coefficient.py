"""Keep ``--alternate-lr-coef`` in the optimizer's state, for every optimizer with a mask."""

# No "from __future__ import annotations" here: fairseq makes options from the field types and needs them as types
# (fairseq/dataclass/utils.py:39).

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer

from fairseq_ats.optim.mask import MaskedStep

logger = logging.getLogger(__name__)

# Of --alternate-lr-coef, among the options of the parameters' group.
_COEFFICIENT = "alternate_lr_coef"


@dataclass
class CoefficientConfig(FairseqDataclass):
    alternate_lr_coef: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of an update that does not train the super-network, relative to --lr; default: as "
            "in the checkpoint of a resumed run, or 1",
            "example": "--alternate-lr-coef 0.5",
        },
    )


class CoefficientInGroup(MaskedStep):
    """A masked optimizer whose ``alternate_lr_coef`` is in its one group of parameters, which is saved."""

    @property
    def alternate_lr_coef(self) -> float:
        return self.param_groups[0].get(_COEFFICIENT, 1.0)

    @alternate_lr_coef.setter
    def alternate_lr_coef(self, value: float) -> None:
        self.param_groups[0][_COEFFICIENT] = value


class KeepsCoefficient(FairseqOptimizer):
    """Mixin of one of fairseq's optimizers around a :class:`CoefficientInGroup`."""

    def set_coefficient(self) -> None:
        """Give the optimizer the coefficient of the options, or 1."""
        given = self.cfg.alternate_lr_coef
        self._optimizer.alternate_lr_coef = 1.0 if given is None else given

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """fairseq's, which takes every option from the saved state; a coefficient that was given counts instead."""
        built = self.optimizer.param_groups[0][_COEFFICIENT]
        super().load_state_dict(state_dict, optimizer_overrides)
        (group,) = self.optimizer.param_groups
        saved = group.setdefault(_COEFFICIENT, built)  # older versions did not save it
        if self.cfg.alternate_lr_coef is not None and saved != built:
            logger.warning(f"the run was trained with --alternate-lr-coef {saved}, and it is {built} now")
            group[_COEFFICIENT] = built


def common_problems(cfg: Any) -> list[str]:
    """Return one message for each option that all masked optimizers have and that is outside its range."""
    problems = []
    if cfg.alternate_lr_coef is not None and not 0 < cfg.alternate_lr_coef < math.inf:
        problems.append(f"--alternate-lr-coef is {cfg.alternate_lr_coef}; allowed: > 0")
    if not 0 <= cfg.weight_decay < math.inf:
        problems.append(f"--weight-decay is {cfg.weight_decay}; allowed: 0 or more")
    return problems

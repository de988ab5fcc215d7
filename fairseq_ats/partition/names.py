"""Name the networks of a run, and what the run logs about each of them.

The highest network of a run logs its metrics under fairseq's usual names (``loss``, ``ppl``, ``bleu``). Every network
below it logs under the same names with its own name as a prefix (``core_loss``, ``level2_loss``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fairseq_ats.partition.partition import CORE, CORE_LEVEL, PERTURBED, PERTURBED_LEVEL, SUPER, Partition

# The paper's convergence criteria, in the order in which they are logged.
CRITERIA = ("c_norm", "c_sim", "c_align", "alpha_t", "q_t")

# What is logged of the perturbation as well, if the run asks for it.
PERTURBATION = ("cosine", "grad_change", "perturbation", "smoothness")

# The divergence of a network's predictions from the super-network's, and the gradient norm of an update.
DISTILLATION = "distillation"
GRADIENT_NORM = "gnorm"

# Names of the networks that can be below the highest one. "super" is not among them: a run that holds the
# super-network has it as the highest network.
_LOWER = rf"{PERTURBED}|{CORE}|level\d+"
_METRIC = re.compile(rf"({_LOWER})_(.+)")
_CRITERION = re.compile(rf"(level\d+_)?({'|'.join(CRITERIA + PERTURBATION)})(_.*)?")

_SEPARATOR = ":"


@dataclass(frozen=True)
class Networks:
    """The networks that a run holds, and the names under which it logs their metrics.

    Args:
        names: the names of the networks, from the core up.
        first: the level of the first.
    """

    names: tuple[str, ...]
    first: int = CORE_LEVEL

    @classmethod
    def of(cls, partition: Partition | None, perturbed: bool = False) -> Networks:
        """Return the networks of ``partition``; if it is None, the one network of a model that is not partitioned.

        Args:
            perturbed: whether the perturbed network is validated as well.
        """
        if partition is None:
            return cls((SUPER,))
        names = tuple(partition.network_name(level) for level in partition.levels)
        return cls((PERTURBED, *names), PERTURBED_LEVEL) if perturbed else cls(names)

    @property
    def levels(self) -> range:
        """The levels of all networks, from the core up."""
        return range(self.first, self.highest + 1)

    @property
    def lower_levels(self) -> range:
        """The levels of the networks below the highest."""
        return range(self.first, self.highest)

    @property
    def highest(self) -> int:
        """The level of the highest network, which logs under fairseq's usual names."""
        return self.first + len(self.names) - 1

    def name(self, level: int) -> str:
        """Return the name of the network of ``level``."""
        return self.names[level - self.first]

    def level(self, name: str) -> int:
        """Return the level of the network ``name``.

        Raises:
            ValueError: the run has no such network.
        """
        return self.first + self.names.index(name)

    def metric_name(self, level: int, metric: str) -> str:
        """Return the name under which the network of ``level`` logs ``metric``: ``core_loss`` for the core's ``loss``.

        fairseq hides metrics whose name starts with an underscore. The returned name keeps that underscore in front.
        """
        if level == self.highest:
            return metric
        name = self.name(level)
        return f"_{name}{metric}" if metric.startswith("_") else f"{name}_{metric}"

    def split_metric(self, logged: str) -> tuple[str, str]:
        """Split a logged name into the network's name and the metric's usual name.

        The run may not have that network: the name is read without looking at the run's networks.
        """
        network, metric = split_metric(logged)
        return network or self.names[-1], metric

    def key(self, level: int, key: str) -> str:
        """Return the key for a value of the network of ``level`` in fairseq's logging output, such as ``core:loss``."""
        return key if level == self.highest else f"{self.name(level)}{_SEPARATOR}{key}"

    def split_key(self, key: str) -> tuple[int, str]:
        """Split a key that :meth:`key` made into the network's level and the usual key."""
        for level in self.lower_levels:
            prefix = self.name(level) + _SEPARATOR
            if key.startswith(prefix):
                return level, key.removeprefix(prefix)
        return self.highest, key


def split_metric(logged: str) -> tuple[str | None, str]:
    """Split a logged name into the network's name and the metric's usual name.

    The network is None if the name has no network in front. The metric is then the highest network's.
    """
    match = _METRIC.fullmatch(logged)
    return (match.group(1), match.group(2)) if match else (None, logged)


def criterion_name(criterion: str, level: int, layer: str | None = None) -> str:
    """Return the name under which a criterion is logged for the network of ``level``, or for one of its layer types.

    Level 0 is no network of the partition: the criteria are about the scheme's own perturbation.

    Examples are ``c_norm`` for the core, ``level2_c_norm`` for level 2, and ``c_norm_encoder_fc1`` for the layer type
    ``encoder_fc1`` of the core.
    """
    prefix = "" if level <= CORE_LEVEL else f"level{level}_"
    return f"{prefix}{criterion}" if layer is None else f"{prefix}{criterion}_{layer}"


def is_criterion(logged: str) -> bool:
    """Return whether ``logged`` is the name of a criterion, for any network and layer type."""
    return _CRITERION.fullmatch(logged) is not None

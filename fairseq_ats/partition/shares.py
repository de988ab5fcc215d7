"""Say what the smaller networks have of the linear layers: a low rank, a small width, or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RANK = "PartitionedRankLinear"
WIDTH = "PartitionedLinear"
MODULE_NAMES = (RANK, WIDTH)

# The layer type of a convolutional network, which has no other.
CONVOLUTION = "PartitionedConv2d"

# The kinds of linear layers: feed-forward modules, queries and keys, values and output projections of attention.
LINEARS = ("ffn", "qk", "vo")

_WHOLE = "whole"
_KINDS = {"rank": RANK, "width": WIDTH}

# One ratio, or one for each level below the super-network.
SmallRatio = float | Sequence[float]


@dataclass(frozen=True)
class Share:
    """What the networks below the super-network have of a linear layer.

    Args:
        module_name: the layer type that takes its place; None leaves the layer whole in every network.
        ratios: the rank or width of each level below the super-network relative to the full layer, from the core up.
    """

    module_name: str | None
    ratios: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Share:
        """Return the share that ``whole``, ``rank:R`` or ``width:R`` says; R may be several ratios.

        Raises:
            ValueError: the text says something else.
        """
        kind, _, ratios = text.strip().partition(":")
        if kind == _WHOLE and not ratios:
            return WHOLE
        if kind not in _KINDS:
            raise ValueError(f"{text!r} is neither {_WHOLE} nor rank:R or width:R")
        return cls(_KINDS[kind], tuple(float(ratio) for ratio in ratios.split(",")))

    def __str__(self) -> str:
        if self.module_name is None:
            return _WHOLE
        kind = next(kind for kind, name in _KINDS.items() if name == self.module_name)
        return f"{kind}:{shown(self.ratios)}"


WHOLE = Share(None)


def ratios_of(small_ratio: SmallRatio) -> tuple[float, ...]:
    """Return the ratios of the levels below the super-network, from the core up."""
    return tuple(small_ratio) if isinstance(small_ratio, Sequence) else (small_ratio,)


def parse_small_ratio(value: str | float | None) -> SmallRatio | None:
    """Parse a value of ``--small-ratio``, such as "0.25" or "0.03125,0.125". Return None if it is None (not given).

    The option is a string in fairseq's configuration, because fairseq has no option type for one number or several.
    Checkpoints of older versions hold a number.

    Raises:
        ValueError: the value is not a number or a list of numbers separated by commas.
    """
    if value is None:
        return None
    try:
        ratios = tuple(float(part) for part in str(value).split(","))
    except ValueError:
        raise ValueError(
            f"--small-ratio is {value!r}; allowed: a number, or several with commas between them, as in 0.03125,0.125"
        ) from None
    return ratios[0] if len(ratios) == 1 else ratios


def shown(numbers: Sequence[float]) -> str:
    """Return one number for each level in the form of the command line, such as "0.03125,0.125"."""
    return ",".join(map(str, numbers))

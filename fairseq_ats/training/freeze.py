"""Keep parameters as they are, whatever the scheme (``--freeze``)."""

from __future__ import annotations

import re

from torch import nn


def frozen_parameters(model: nn.Module, pattern: str | None) -> frozenset[nn.Parameter]:
    """Return the parameters whose names a regular expression finds; none if there is no pattern.

    Raises:
        ValueError: it finds no parameter, or every one.
    """
    named = dict(model.named_parameters())
    found = frozenset(p for name, p in named.items() if pattern and re.search(pattern, name))
    if pattern and len(found) in (0, len(named)):
        examples = ", ".join(list(named)[:: max(1, len(named) // 3)][:3])
        raise ValueError(
            f"--freeze is {pattern}, which finds {'every' if found else 'no'} parameter; some names: {examples}"
        )
    return found

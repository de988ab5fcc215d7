"""What a run that has not been made will cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yaml_file import read_yaml

from tables.description import Recipe
from tables.layout import pflop
from tables.records import Record, RunKey
from tables.training_cost import cost_of_config

# Target tokens of an update as a share of --max-tokens, which counts padding and the longer side: 0.86 and 0.84 in the
# logs of the Multi30k runs (2,162 of 2,500 and 3,430 of 4,096).
FILL = 0.85


@dataclass(frozen=True)
class Expectation:
    """Of a run, or of several together.

    Args:
        seconds: in updates, on the device of the recorded runs; None if no run of the recipe is recorded.
    """

    updates: int
    flops: int
    seconds: float | None

    def __add__(self, other: Expectation) -> Expectation:
        seconds = None if None in (self.seconds, other.seconds) else self.seconds + other.seconds
        return Expectation(self.updates + other.updates, self.flops + other.flops, seconds)

    def __str__(self) -> str:
        time = "seconds unknown: no run of this recipe is recorded"
        if self.seconds is not None:
            time = f"about {self.seconds:,.0f} s at the speed of the recorded runs"
        return f"{self.updates:,} updates, {pflop(self.flops)} PFLOP, {time}"


def expect(recipe: Recipe, row: str, runs: Mapping[RunKey, Record]) -> Expectation:
    """As the recorded runs of the row were; without one, from its configuration and the recipe's rough numbers."""
    same = [record for (name, _), record in runs.items() if name == row]
    if same:
        mean = {key: statistics.mean(record[key] for record in same) for key in ("updates", "flops")}
        seconds = statistics.mean(record["timing"]["train_seconds"] for record in same)
        return Expectation(round(mean["updates"]), round(mean["flops"]), seconds)
    options = read_yaml(recipe.config(row))
    tokens = FILL * options["max_tokens"] * options.get("update_freq", 1)
    updates = _updates(recipe, options, tokens)
    flops = cost_of_config(recipe.config(row), recipe.vocabulary, tokens, tokens / recipe.length).flops(updates)
    done = sum(record["flops"] for record in runs.values())
    seconds = sum(record["timing"]["train_seconds"] for record in runs.values())
    return Expectation(updates, flops, flops * seconds / done if done else None)


def _updates(recipe: Recipe, options: Mapping[str, Any], tokens: float) -> int:
    if "max_update" in options:
        return options["max_update"]
    return options["max_epoch"] * math.ceil(recipe.sentences * recipe.length / tokens)

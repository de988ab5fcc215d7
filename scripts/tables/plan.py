"""Count the FLOPs of a training that has not been made, from its configuration file."""

from __future__ import annotations

import math

from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cost.training import cost_of_options
from scripts.tables.description import Recipe

# Target tokens of an update as a share of --max-tokens, which counts padding and the longer side: 0.86 and 0.84 in the
# logs of the Multi30k runs (2,162 of 2,500 and 3,430 of 4,096).
FILL = 0.85


def planned_cost(recipe: Recipe, row: str, workers: int = 1) -> tuple[int, int]:
    """Return the updates and the FLOPs of all workers of a row, for the recipe's rough sizes of the data."""
    path = recipe.config(row)
    config = read_config(path)
    tokens = FILL * config["max_tokens"] * config.get("update_freq", 1) * workers
    updates = config.get("max_update")
    if updates is None:
        updates = config["max_epoch"] * math.ceil(recipe.sentences * recipe.length / tokens)
    cost = cost_of_options(options_of(config, path), recipe.vocabulary, tokens, tokens / recipe.length)
    return updates, cost.flops(updates)

"""Measure a finished run: everything that its record says."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fairseq_ats
from fairseq_ats.cost.training import TrainingCost, cost_of_run
from fairseq_ats.training.log_file import TrainingLog
from scripts.tables.description import Row
from scripts.tables.records import Curve, Record
from scripts.tables.runs import Run, commit
from scripts.tables.scoring import Decoding, References, score_networks

# The highest network validates under fairseq's own names. Another one has its name before them.
METRIC = re.compile(r"(?:(core|level\d+|perturbed)_)?(bleu|loss)")
PACKAGES = ("torch", "fairseq-fixed", "sacrebleu", "sacremoses", "sentencepiece")


def measure(
    run: Run, row: Row, data: Path, references: References, decoding: Decoding, hardware: str
) -> tuple[Record, dict[str, list[str]], Curve]:
    """Return the record of a finished run, the hypotheses of each of its networks, and its learning curve.

    All that depends on how fast the machine was is under "timing".

    Args:
        hardware: of a run that does not say itself where it was trained.

    Raises:
        ValueError: the run cannot be decoded, or its log has no numbers.
    """
    log = TrainingLog.read(run.log)
    networks, hypotheses = score_networks(run.folder, run.recipe, data, row.networks, references, decoding)
    cost = cost_of_run(run.folder / "checkpoint_best.pt", log.tokens_per_update, log.sentences_per_update)
    record = origin_of(run, log, hardware) | {
        "data": _stamp(data),
        "tokens_per_update": log.tokens_per_update,
        "sentences_per_update": log.sentences_per_update,
        "flops": cost.flops(log.updates),
        "flops_of_an_update": {str(level): cost.costs[level].flops for level in sorted(cost.trained(log.updates))},
        "batch_size": decoding.batch_size,
        "networks": networks,
    }
    return record, hypotheses, curve_of(log, cost)


def origin_of(run: Run, log: TrainingLog, hardware: str) -> Record:
    """Return what every record says of where its run comes from, and how long it took.

    Args:
        hardware: as in :func:`measure`.
    """
    return {
        "recipe": run.recipe.name,
        "row": run.row,
        "seed": run.seed,
        "starts": run.starts() or [{"commit": None, "command": None, "options": [], "hardware": hardware}],
        "scored_at": commit(),
        "versions": versions(),
        "updates": log.updates,
        "timing": {"train_seconds": log.train_seconds, "wall_seconds": log.wall_seconds},
    }


def curve_of(log: TrainingLog, cost: TrainingCost) -> Curve:
    """Return loss and BLEU of each network in each validation, under fairseq's names, with updates and FLOPs so far."""
    return [
        {"updates": updates, "flops": cost.flops(updates)}
        | {name: value for name, value in point.items() if METRIC.fullmatch(name)}
        for updates, point in log.validations.items()
    ]


def versions() -> dict[str, str]:
    packages = {package: version(package) for package in PACKAGES}
    return {"Python": platform.python_version(), "fairseq-ats": fairseq_ats.__version__, **packages}


def _stamp(data: Path) -> dict[str, Any] | None:
    """Return how ``fairseq-ats binarise`` made the data, with a digest of the raw text; None if it did not."""
    path = data / "binarised.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

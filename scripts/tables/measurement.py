"""Everything about a finished run that its line in the results says."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training_log import TrainingLog

import fairseq_ats
from scripts.tables.description import Row
from scripts.tables.records import Record
from scripts.tables.runs import Run, commit
from scripts.tables.scoring import Decoding, References, score_networks
from scripts.tables.training_cost import cost_of_run

PACKAGES = ("torch", "fairseq-fixed", "sacrebleu", "sacremoses", "sentencepiece")


def measure(
    run: Run, row: Row, data: Path, references: References, decoding: Decoding, hardware: str
) -> tuple[Record, dict[str, list[str]]]:
    """The line of a run, and the hypotheses of each of its networks.

    All that depends on how fast the machine was, or on whether the run was interrupted, is under "timing".

    Args:
        hardware: of a run that does not say itself where it was trained.

    Raises:
        ValueError: the run cannot be decoded, or its log is of no use.
    """
    log, started = TrainingLog.read(run.log), run.started()
    networks, hypotheses = score_networks(run.folder, run.recipe, data, row.networks, references, decoding)
    best = run.folder / "checkpoint_best.pt"
    cost = cost_of_run(best, log.tokens_per_update, log.sentences_per_update)
    record = {
        "recipe": run.recipe.name,
        "row": run.row,
        "seed": run.seed,
        "commit": started.get("commit"),
        "command": started.get("command"),
        "options": started.get("options", []),
        "scored_at": commit(),
        "versions": _versions(),
        "hardware": started.get("hardware", hardware),
        "data": _stamp(data),
        "references_sha256": references.digest,
        "updates": log.updates,
        "tokens_per_update": log.tokens_per_update,
        "sentences_per_update": log.sentences_per_update,
        "flops": cost.flops(log.updates),
        "flops_of_an_update": {str(level): cost.costs[level].flops for level in sorted(cost.trained(log.updates))},
        "batch_size": decoding.batch_size,
        "networks": networks,
        "timing": {
            "train_seconds": log.train_seconds,
            "wall_seconds": log.wall_seconds,
            "resumed": started.get("resumed", []),
        },
    }
    return record, hypotheses


def _versions() -> dict[str, str]:
    packages = {package: version(package) for package in PACKAGES}
    return {"Python": platform.python_version(), "fairseq-ats": fairseq_ats.__version__, **packages}


def _stamp(data: Path) -> dict[str, Any] | None:
    """How the data were made, with a digest of the raw text; None if ``scripts/binarise.py`` did not make them."""
    path = data / "binarised.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

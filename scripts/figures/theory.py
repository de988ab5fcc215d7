#!/usr/bin/env python3
"""Write a table of the quantities of the paper's convergence theorem, from the logs of real trainings.

    python -m scripts.figures.theory OUTPUT standard=RUN/train.log dropout=RUN/train.log

The trainings must run as those of ``scripts.figures.criteria``, with ``--criteria-of``. The script writes their numbers
to OUTPUT.jsonl and prints Markdown: medians over the last quarter of the records, and the last validation. Δ_t < ½ is
Assumption 3 with the smoothness L̂ along the perturbation in place of L. Below the table is how far the records that
satisfy it are from the bounds of Lemma 2.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from tabulate import tabulate

from fairseq_ats.partition.names import CRITERIA, PERTURBATION
from fairseq_ats.training.log_file import TrainingLog
from scripts.figures.criteria import Record, read_runs

COSINE, CHANGE, DISTANCE, SMOOTHNESS = PERTURBATION
MEDIANS = {name: name for name in (*CRITERIA, COSINE)} | {CHANGE: "Δ_t", DISTANCE: "left side of (4)"}
VALIDATED = ("loss", "core_loss", "perturbed_loss", "bleu", "perturbed_bleu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args, runs = read_runs(parser, lambda args: [COSINE, CHANGE, DISTANCE])
    logs = dict(argument.split("=", 1) for argument in args.logs)
    validated = {name: list(TrainingLog.read(Path(logs[name])).validations.values())[-1:] for name in runs}
    print(table(runs, {name: last[0] if last else {} for name, last in validated.items()}))
    print("\n" + lemma_2([record for records in runs.values() for record in records]))


def table(runs: dict[str, list[Record]], validated: dict[str, Record]) -> str:
    """Return the table.

    Args:
        validated: the results of the last validation of each run.
    """
    metrics = [metric for metric in VALIDATED if any(metric in last for last in validated.values())]
    header = ["run", *MEDIANS.values(), "1/2L̂", *(metric.replace("_", " ") for metric in metrics)]
    rows = []
    for name, records in runs.items():
        chosen = records[-max(1, len(records) // 4) :]
        numbers = [statistics.median([record[quantity] for record in chosen]) for quantity in MEDIANS]
        # Without a perturbation there is none, or it is infinite: of another backward pass.
        smoothness = [record[SMOOTHNESS] for record in chosen if 0 < record.get(SMOOTHNESS, 0) < math.inf]
        numbers.append(1 / (2 * statistics.median(smoothness)) if smoothness else math.nan)
        numbers += [validated[name].get(metric, math.nan) for metric in metrics]
        rows.append([name, *("" if math.isnan(number) else f"{number:.3g}" for number in numbers)])
    sides = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=sides)


def lemma_2(records: list[Record]) -> str:
    """Return how large c_sim and c_align are where Δ_t < ½, of the records whose point is perturbed."""
    perturbed = [record for record in records if record[DISTANCE] > 0]
    held = [record for record in perturbed if record[CHANGE] < 0.5]
    text = f"Δ_t < ½ in {len(held):,} of {len(perturbed):,} records with a perturbation"
    if held:
        largest = [max(record[name] for record in held) for name in ("c_sim", "c_align")]
        text += f"; there c_sim ≤ {largest[0]:.3f} (< 2) and c_align ≤ {largest[1]:.3f} (≤ 2/√3 = 1.155)"
    return f"{text}."


if __name__ == "__main__":
    main()

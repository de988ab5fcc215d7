#!/usr/bin/env python3
"""Draw validation BLEU and loss of every network of one or more runs, over updates and over training FLOPs.

    python -m scripts.figures.learning_curves RUN... --output curves.png

The script reads the curves from RUN/train.log (``fairseq-ats train`` sets ``--log-file`` to it). The log has BLEU if
the run was trained with --eval-bleu. The script counts the FLOPs of a model that it builds from RUN's last or best
checkpoint. The checkpoint also says which networks were trained. A run without a checkpoint is drawn over updates only,
with every network that was validated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fairseq_ats.checkpoints.names import best_checkpoint, last_checkpoint
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.cost.training import TrainingCost, cost_of_run
from fairseq_ats.training.log_file import TrainingLog
from scripts.figures.png import new_figure, write_png
from scripts.tables.measurement import METRIC

LABELS = {"bleu": "validation BLEU", "loss": "validation loss, bits a token"}


@dataclass(frozen=True)
class Curve:
    """One metric of one network of a run.

    Args:
        metric: ``bleu`` or ``loss``.
        network: the name of the network; None is the highest network.
        label: the name of the curve in the legend.
        points: pairs (number of updates, value), in order.
    """

    metric: str
    network: str | None
    label: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Curves:
    """The curves of a run.

    Args:
        flops: the function from a number of updates to their FLOPs; None if the FLOPs cannot be counted.
    """

    curves: list[Curve]
    flops: Callable[[int], int] | None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    parser.add_argument("--checkpoint-suffix", default="", metavar="SUFFIX", help="the same as in the trainings")
    args = parser.parse_args(arguments)
    silence_libraries()
    torch.set_num_threads(1)
    try:
        runs = read_runs(args.runs, args.checkpoint_suffix)
        metrics = [metric for metric in LABELS if any(curve.metric == metric for run in runs for curve in run.curves)]
        if "bleu" not in metrics:
            print("learning_curves: no run has BLEU in its log, which --eval-bleu puts there")
        draw(runs, metrics, args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"learning_curves: {error}")


def read_runs(folders: Sequence[Path], suffix: str = "") -> list[Curves]:
    """Return the curves of all runs that have curves. For each run without curves, print why it is left out.

    Raises:
        ValueError: none of the runs has curves.
    """
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder, suffix))
        except ValueError as error:
            print(f"learning_curves: left out: {error}")
    if not runs:
        raise ValueError("there is nothing to draw")
    return runs


def read_run(run: Path, suffix: str = "") -> Curves:
    """Return the curves of a run.

    Args:
        suffix: the run's ``--checkpoint-suffix``.

    Raises:
        ValueError: the run has no log, or its log has no validation.
    """
    path = run / "train.log"
    if not path.is_file():
        raise ValueError(f"{run} has no train.log; fairseq-ats train writes one, fairseq-train with --log-file")
    log = TrainingLog.read(path)
    curves = curves_of(log, "/".join(run.absolute().parts[-2:]))
    if not curves:
        raise ValueError(f"{path} has no validation yet")
    cost = _cost(run, log, suffix)
    if cost is None:
        return Curves(curves, None)
    if len(cost.trained(log.updates)) == 1:
        # Validation covers all networks, even networks that were not trained.
        curves = [curve for curve in curves if curve.network is None]
    return Curves(curves, cost.flops)


def curves_of(log: TrainingLog, name: str) -> list[Curve]:
    """Return one curve for each metric of each network."""
    found: dict[str, list[tuple[int, float]]] = {}
    for updates, point in log.validations.items():
        for metric, value in point.items():
            if METRIC.fullmatch(metric):
                found.setdefault(metric, []).append((updates, value))
    networks = {METRIC.fullmatch(metric).group(1) for metric in found}
    curves = []
    for metric, points in found.items():
        network, kind = METRIC.fullmatch(metric).groups()
        label = name if networks == {None} else f"{name} {network or 'super'}"
        curves.append(Curve(kind, network, label, points))
    return curves


def _cost(run: Path, log: TrainingLog, suffix: str) -> TrainingCost | None:
    names = [last_checkpoint(suffix), best_checkpoint(suffix)]
    checkpoint = next((run / name for name in names if (run / name).is_file()), None)
    try:
        if checkpoint is None:
            raise ValueError(f"{run} has no {' or '.join(names)}")
        return cost_of_run(checkpoint, log.tokens_per_update, log.sentences_per_update)
    except ValueError as error:
        print(f"learning_curves: {run} is drawn against updates only: {error}")
        return None


def draw(runs: Sequence[Curves], metrics: Sequence[str], path: Path) -> None:
    """Draw a row of two panels for each metric: over updates on the left, over FLOPs on the right."""
    figure = new_figure(11, 3.8 * len(metrics))
    panels = figure.subplots(len(metrics), 2, squeeze=False)
    for metric, (by_updates, by_flops) in zip(metrics, panels, strict=True):
        _panel(by_updates, runs, metric, lambda run: lambda updates: updates, "updates")
        _panel(by_flops, runs, metric, lambda run: run.flops, "training FLOPs")
    panels[0][0].legend(fontsize="small")
    write_png(figure, path)


def _panel(
    axes: Any,
    runs: Sequence[Curves],
    metric: str,
    position: Callable[[Curves], Callable[[int], int] | None],
    name: str,
) -> None:
    for number, run in enumerate(runs):
        at = position(run)
        # The networks of a run share a colour. The highest network comes first, with a solid line.
        styles = iter(("-", "--", ":", "-."))
        for curve in (curve for curve in run.curves if curve.metric == metric):
            style = next(styles)
            if at is not None:
                x = [at(updates) for updates, _ in curve.points]
                y = [value for _, value in curve.points]
                axes.plot(x, y, style, color=f"C{number % 10}", marker=".", label=curve.label)
    axes.set_xlabel(name)
    axes.set_ylabel(LABELS[metric])
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draw the learning curves of a table's rows: validation BLEU and loss, mean over seeds, over updates and over FLOPs.

    python -m scripts.figures.table_curves multi30k_converged --output results/tables/multi30k_converged.curves.png
    python -m scripts.figures.table_curves multi30k_warm --rows standard,standard_warm_25 --output warm.png

The curves come from RESULTS/RECIPE/ROW.seedN.curve.jsonl, which scripts/reproduce_table.sh keeps beside the records. A
band is one standard deviation (n - 1) to each side. The FLOPs of a row that began from another row's network include
that row's training. BLEU is there if the runs validated with --eval-bleu.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ats.partition.partition import PERTURBED
from scripts.figures.learning_curves import LABELS
from scripts.figures.png import legend_below, new_figure, write_png
from scripts.tables.description import COLUMNS, ROOT, Row, Table, read_tables
from scripts.tables.layout import flops_of_needs, recorded
from scripts.tables.records import Curve, Records


@dataclass(frozen=True)
class MeanCurve:
    """One metric of one network of a row, over its seeds.

    Args:
        seeds: the number of seeds.
        updates, flops: means over seeds of where each validation was; ``flops`` with those of needed runs.
        mean, deviation: of the metric; the deviation is 0 for one seed.
    """

    seeds: int
    updates: list[float]
    flops: list[float]
    mean: list[float]
    deviation: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    tables = read_tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--rows", type=lambda text: text.split(","), metavar="ROW,...", help="only these rows")
    parser.add_argument("--results", type=Path, default=ROOT / "results/tables", help="default: results/tables")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(arguments)
    table = tables[args.table]
    names = [row.name for row in table.rows]
    unknown = set(args.rows or ()) - set(names)
    if unknown:
        parser.error(f"argument --rows: {', '.join(sorted(unknown))} is not allowed; allowed: {', '.join(names)}")
    rows = [row for row in table.rows if args.rows is None or row.name in args.rows]
    try:
        draw(table, rows, Records(args.results, table.recipe.name), args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"table_curves: {error}")


def mean_curve(curves: Sequence[Curve], metric: str, flops_before: float) -> MeanCurve | None:
    """Return the mean of runs of one row, validation by validation, as far as all runs have come; None without any.

    The n-th validations of two seeds belong together: each is at the end of an epoch, which with another order of the
    sentences may have a few updates more or less.

    Args:
        metric: under fairseq's name, such as core_bleu.
        flops_before: of the trainings that these runs needed.
    """
    of_runs = [[point for point in curve if metric in point] for curve in curves]
    together = list(zip(*of_runs, strict=False))
    if not together:
        return None

    def means(name: str) -> list[float]:
        return [statistics.mean(point[name] for point in points) for points in together]

    deviation = [statistics.stdev(point[metric] for point in points) if len(points) > 1 else 0.0 for points in together]
    flops = [flops_before + value for value in means("flops")]
    return MeanCurve(len(curves), means("updates"), flops, means(metric), deviation)


def metric_of(row: Row, network: str, kind: str) -> str:
    """Return fairseq's name of a metric of one of a row's networks: the highest has no name before it."""
    highest = [name for name in COLUMNS if name in row.networks and name != PERTURBED][-1]
    return kind if network == highest else f"{network}_{kind}"


def draw(table: Table, rows: Sequence[Row], records: Records, path: Path) -> None:
    """Draw two panels for each metric and network: over updates on the left, over FLOPs on the right.

    Raises:
        ValueError: no run of these rows has a curve.
    """
    runs = records.read()
    found: dict[tuple[str, str], list[tuple[Row, int, MeanCurve]]] = {}
    for kind in LABELS:
        for network in table.columns:
            for number, row in enumerate(rows):
                curves = [curve for record in recorded(row.name, runs) if (curve := records.curve(record)) is not None]
                before = flops_of_needs(table, row, runs)
                if network not in row.networks or not curves or before is None:
                    continue
                curve = mean_curve(curves, metric_of(row, network, kind), before)
                if curve is not None:
                    found.setdefault((kind, network), []).append((row, number, curve))
    if not found:
        raise ValueError(f"{records.folder} has no learning curve of these rows")
    figure = new_figure(12, 3.6 * len(found) + 0.25 * len(rows))
    panels = figure.subplots(len(found), 2, squeeze=False)
    entries: dict[str, Any] = {}
    for ((kind, network), curves_of_rows), of_metric in zip(found.items(), panels, strict=True):
        for axes, position, name in zip(of_metric, ("updates", "flops"), ("updates", "training, PFLOP"), strict=True):
            for row, number, curve in curves_of_rows:
                x = curve.updates if position == "updates" else [flops / 1e15 for flops in curve.flops]
                style = "-" if number < 10 else "--"
                (line,) = axes.plot(x, curve.mean, style, color=f"C{number % 10}", marker=".")
                low, high = ([m + s * d for m, d in zip(curve.mean, curve.deviation, strict=True)] for s in (-1, 1))
                axes.fill_between(x, low, high, color=f"C{number % 10}", alpha=0.2, linewidth=0)
                entries[f"{row.label} (n = {curve.seeds})"] = line
            axes.set_title(table.columns[network], fontsize=10)
            axes.set_xlabel(name)
            axes.set_ylabel(LABELS[kind])
            axes.grid(alpha=0.3)
    legend_below(figure, entries)
    write_png(figure, path)


if __name__ == "__main__":
    main()

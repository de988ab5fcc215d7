"""Draw what each network scores against what its training cost: who gets most for a FLOP."""

from __future__ import annotations

import statistics
from pathlib import Path

from scripts.figures.png import legend_below, new_figure, write_png
from scripts.tables.description import Table
from scripts.tables.layout import recorded, whole_flops
from scripts.tables.records import Record, RunKey, scores_of

MARKERS = "osD^vP*X<>hd"


def draw(table: Table, runs: dict[RunKey, Record], path: Path) -> None:
    """Draw BLEU, mean and standard deviation over seeds, against the FLOPs of the whole run; a panel for each network.

    A run that trains several networks stands in several panels, each time with the FLOPs of the whole run, and of the
    runs that it needs.
    """
    panels = len(table.columns)
    figure = new_figure(4.2 * panels, 4.2 + 0.22 * len(table.rows))
    every = figure.subplots(1, panels, squeeze=False, sharex=True, sharey=True)[0]
    entries = {}
    for axes, (network, heading) in zip(every, table.columns.items(), strict=True):
        for number, row in enumerate(table.rows):
            records, flops = recorded(row.name, runs), whole_flops(table, row, runs)
            if network not in row.networks or flops is None:
                continue
            scores = [scores_of(record, network)["bleu"] for record in records]
            entries[row.label] = axes.errorbar(
                flops / 1e15,
                statistics.mean(scores),
                yerr=statistics.stdev(scores) if len(scores) > 1 else None,
                fmt=MARKERS[number % len(MARKERS)],
                color=f"C{number % 10}",
                capsize=3,
                markersize=7,
            )
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel("training, PFLOP")
        axes.grid(alpha=0.3)
    # One scale for all panels, from 0, with room for the last marker.
    every[0].set_xlim(0, 1.05 * max(axes.dataLim.x1 for axes in every) if entries else None)
    every[0].set_ylabel("BLEU")
    legend_below(figure, {row.label: entries[row.label] for row in table.rows if row.label in entries})
    write_png(figure, path)

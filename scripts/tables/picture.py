"""A table as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from scripts.figures.png import new_figure, write_png
from scripts.tables import layout
from scripts.tables.description import Table
from scripts.tables.records import Record, RunKey


def draw(table: Table, runs: dict[RunKey, Record], seeds: Sequence[int], path: Path) -> None:
    """The scores, as a PNG."""
    grid = layout.scores(table, runs, seeds)
    header = [name.replace(": ", "\n").replace(", ", ",\n") for name in grid.header]
    widths = [max(len(line) for row in ([head], column) for cell in row for line in cell.split("\n")) + 2
              for head, column in zip(header, zip(*grid.rows, strict=True), strict=True)]  # fmt: skip
    height = 0.32 * (len(grid.rows) + 3)
    figure = new_figure(0.085 * sum(widths), height + 0.6, layout=None)
    axes = figure.add_axes((0.01, 0.02, 0.98, height / (height + 0.6) - 0.03))
    axes.axis("off")
    drawn = axes.table(
        cellText=grid.rows,
        colLabels=header,
        colWidths=[width / sum(widths) for width in widths],
        cellLoc="right",
        bbox=(0, 0, 1, 1),
        edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (row, column), cell in drawn.get_celld().items():
        if column == 0:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_text_props(weight="bold")
            cell.set_height(3 / (len(grid.rows) + 3))
        else:
            cell.set_height(1 / (len(grid.rows) + 3))
    title = "\n".join(textwrap.wrap(f"{table.title}. {table.recipe.title}.", int(sum(widths))))
    figure.text(0.01, 0.99, title, va="top", fontsize=9)
    write_png(figure, path)

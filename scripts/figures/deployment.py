#!/usr/bin/env python3
"""Draw the BLEU of deployed networks against their speed, from a page with tables of the benchmark.

    python -m scripts.figures.deployment PAGE.md --output deployment.png

The tables are those of ``scripts.benchmarks.deployment``, one for each run, each below a heading that names the run. A
speed is that by CPU time over stock fairseq on the run's super-network. The bar reaches from the first to the third
quartile. A hollow marker is a super-network, a full one a core.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.figures.png import new_figure, write_png

# A heading, or a row of a run's first table: the form and the network, BLEU, three columns, and the speed by CPU time.
_LINE = re.compile(
    r"^#+ (?P<heading>.+)$|^\| (?P<form>[^|]+), (?P<network>super|core) \| (?P<bleu>[\d.]+) \|(?:[^|]+\|){3}"
    r" (?P<speed>[\d.]+) \((?P<low>[\d.]+)-(?P<high>[\d.]+)\) \|",
    re.MULTILINE,
)
_MARKERS = "o^sDvP"


@dataclass(frozen=True)
class Deployed:
    """One row of a table."""

    run: str
    form: str
    network: str
    bleu: float
    speed: float
    low: float
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, metavar="PAGE.md")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    args = parser.parse_args()
    rows = read_rows(args.page.read_text("utf-8"))
    if not rows:
        sys.exit(f"deployment: {args.page} has no table of scripts.benchmarks.deployment")
    draw(rows, args.output)


def read_rows(page: str) -> list[Deployed]:
    """Return the rows of the tables in their order."""
    run, rows = "", []
    for line in _LINE.finditer(page):
        if line["heading"]:
            run = line["heading"]
        else:
            numbers = (float(line[name]) for name in ("bleu", "speed", "low", "high"))
            rows.append(Deployed(run, line["form"], line["network"], *numbers))
    return rows


def draw(rows: list[Deployed], path: Path) -> None:
    """Draw the figure: a colour for each form, a marker for each run."""
    figure = new_figure(12, 5)
    axes = figure.subplots()
    forms, runs = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("form", "run"))
    for row in rows:
        colour = f"C{forms.index(row.form)}"
        axes.errorbar(
            row.speed,
            row.bleu,
            xerr=[[max(0.0, row.speed - row.low)], [max(0.0, row.high - row.speed)]],
            fmt=_MARKERS[runs.index(row.run)],
            color=colour,
            markerfacecolor="none" if row.network == "super" else colour,
            markersize=8,
            linewidth=1,
        )
    for number, form in enumerate(forms):
        axes.plot([], [], color=f"C{number}", linewidth=4, label=form)
    for marker, run in zip(_MARKERS, runs, strict=False):
        axes.plot([], [], marker, color="grey", label=run)
    axes.set(xlabel="speed: CPU time of stock fairseq on the super-network / own CPU time", ylabel="BLEU", xscale="log")
    axes.set_xticks(ticks := [1, 2, 3, 4, 5, 7, 10, 14], [f"{tick}×" for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))  # beside the points
    figure.set_dpi(150)
    write_png(figure, path)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draw the BLEU of deployed networks against their speed, from a page with the table of the benchmark.

    python -m scripts.figures.deployment PAGE.md --output deployment.png

The table is that of ``scripts.benchmarks.deployment``. A speed is that by CPU time over stock fairseq; the bar
reaches from the first to the third quartile.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.figures.png import new_figure, write_png

# A row of the first table: the form and the network, BLEU, three columns, and the speed by CPU time with its quartiles.
_ROW = re.compile(
    r"^\| (?P<form>[^|]+), (?P<network>super|core) \| (?P<bleu>[\d.]+) \|(?:[^|]+\|){3}"
    r" (?P<speed>[\d.]+) \((?P<low>[\d.]+)-(?P<high>[\d.]+)\) \|",
    re.MULTILINE,
)
_MARKERS = {"super": "o", "core": "^"}


@dataclass(frozen=True)
class Deployed:
    """One row of the table."""

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
    """Return the rows of the table in their order."""
    return [
        Deployed(row["form"], row["network"], *(float(row[name]) for name in ("bleu", "speed", "low", "high")))
        for row in _ROW.finditer(page)
    ]


def draw(rows: list[Deployed], path: Path) -> None:
    """Draw the figure: a colour for each form, a marker for each network."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    forms = list(dict.fromkeys(row.form for row in rows))
    for row in rows:
        axes.errorbar(
            row.speed,
            row.bleu,
            xerr=[[max(0.0, row.speed - row.low)], [max(0.0, row.high - row.speed)]],
            fmt=_MARKERS[row.network],
            color=f"C{forms.index(row.form)}",
            label=f"{row.form}, {row.network}",
            markersize=8,
        )
    axes.set(xlabel="speed: CPU time of stock fairseq on the super-network / own CPU time", ylabel="BLEU", xscale="log")
    axes.set_xticks(ticks := [1, 2, 3, 4, 5, 7, 10], [f"{tick}×" for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.set_dpi(150)
    write_png(figure, path)


if __name__ == "__main__":
    main()

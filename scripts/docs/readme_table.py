"""Draw README's table from the records of ``results/tables``, beside the paper's numbers.

python -m scripts.docs.readme_table            # print it
python -m scripts.docs.readme_table --write    # put it into README.md, in the place of the table that is there
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq_ats.files import written_whole
from scripts.tables.description import ROOT, Published, Table, read_tables
from scripts.tables.layout import mean_std, recorded, whole_flops
from scripts.tables.records import Record, Records, RunKey, scores_of

README = ROOT / "README.md"
RESULTS = ROOT / "results/tables"
HEADER = ("core", "training", "paper: core", "super-network", "ours: core", "super-network", "FLOPs", "our seeds")
NONE = "–"


@dataclass(frozen=True)
class Line:
    """A line of the table: one training.

    Args:
        core: its first cell.
        training: its second cell.
        row: of our table.
        alone: the row in which its core was trained alone; None for the standard Transformer.
        published: the table that has the paper's numbers for this row.
        recipe: of its records and of those beside it; None for the recipe of the whole table.
    """

    core: str
    training: str
    row: str
    alone: str | None = None
    published: str | None = None
    recipe: str | None = None


def _of_kind(name: str, kind: str, published: str, joint: Sequence[tuple[str, str]]) -> list[Line]:
    alone = f"{kind}_alone"
    lines = [Line(name, "core alone", alone, alone, published), Line("", "ATS", f"{kind}_ats", alone, published)]
    return lines + [Line("", training, f"{kind}_{row}", alone) for training, row in joint]


def _lines(joint: Sequence[tuple[str, str]]) -> list[Line]:
    return [
        Line("none", "standard Transformer", "standard", published="1a"),
        *_of_kind("low rank, r = 1/32", "low_rank_0.03125", "1a", joint),
        *_of_kind("small width, r = 1/4", "small_width_0.25", "2a", joint),
    ]


# The recipe whose records README shows, and the lines of each recipe that it can show.
RECIPE = "multi30k_converged"
BEST = "multi30k_weight_decay"
WARM = ("ATS from the standard one", "warm_25")
LINES = {
    "multi30k": _lines([("ATS, twice the updates", "ats_twice")]),
    "multi30k_converged": [
        *_lines([WARM]),
        Line("", "the same, core on translations", "small_width_0.25_translations_warm_25", "small_width_0.25_alone"),
        Line("2 of 4 decoder layers", "core alone", "decoder_2_alone", "decoder_2_alone"),
        Line("", WARM[0], "decoder_2_warm_25", "decoder_2_alone"),
        Line("none, in small batches", "standard Transformer", "standard", recipe=BEST),
        Line("small width, r = 1/4", "core alone", "small_width_0.25_alone", "small_width_0.25_alone", recipe=BEST),
        Line(
            "",
            "ATS from the standard one, 35 % as long, core on translations",
            "small_width_0.25_translations_warm_35",
            "small_width_0.25_alone",
            recipe=BEST,
        ),
    ],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write README.md")
    args = parser.parse_args(arguments)
    text = drawn(RECIPE, RESULTS)
    if args.write:
        page = replaced(README.read_text(encoding="utf-8"), text)
        with written_whole(README) as path:
            path.write_text(page, encoding="utf-8")
    else:
        print(text)


def drawn(name: str, results: Path) -> str:
    """Return the table in Markdown. FLOPs are those of the whole training relative to both networks' trainings alone.

    Args:
        name: of :data:`LINES`.

    Raises:
        ValueError: a row has no record.
    """
    tables, rows = read_tables(), []
    recipes = {line.recipe or name for line in LINES[name]}
    of_recipe = {recipe: (all_rows(tables, recipe), Records(results, recipe).read()) for recipe in recipes}
    for line in LINES[name]:
        recipe = line.recipe or name
        table, runs = of_recipe[recipe]
        records = recorded(line.row, runs)
        if not records:
            raise ValueError(f"{line.row} has no record in {results / recipe}")
        published = tables[line.published].row(line.row).published if line.published else {}
        cells = [_published(published.get(network)) for network in ("core", "super")]
        cells += [_ours(records, network) for network in ("core", "super")]
        rows.append([line.core, line.training, *cells, _relative_flops(table, line, runs), str(len(records))])
    sides = ["---", "---", *["---:"] * (len(HEADER) - 2)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(sides)}|", *lines[1:]]).replace("|  |", "| |")


def all_rows(tables: Mapping[str, Table], recipe: str) -> Table:
    """Return a table with the rows of all tables of a recipe."""
    of_recipe = [table for table in tables.values() if table.recipe.name == recipe]
    rows = {row.name: row for table in of_recipe for row in table.rows}
    return replace(of_recipe[0], name=recipe, rows=tuple(rows.values()))


def replaced(page: str, table: str) -> str:
    """Return a page with ``table`` in the place of its table of the same first two columns.

    Raises:
        ValueError: the page has no such table, or several.
    """
    start = f"| {HEADER[0]} | {HEADER[1]} |"
    lines = page.split("\n")
    found = [number for number, line in enumerate(lines) if line.startswith(start)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} tables begin with {start}; allowed: one")
    end = next(number for number in range(found[0], len(lines)) if not lines[number].startswith("|"))
    return "\n".join([*lines[: found[0]], table, *lines[end:]])


def _published(value: Published | None) -> str:
    if value is None:
        return NONE
    return f"{value.mean:.2f}" if value.std is None else f"{value.mean:.2f} ({value.std:.2f})"


def _ours(records: Sequence[Record], network: str) -> str:
    if network not in records[0]["networks"]:
        return NONE
    return mean_std([scores_of(record, network)["bleu"] for record in records])


def _relative_flops(table: Table, line: Line, runs: Mapping[RunKey, Record]) -> str:
    if line.alone is None:
        return NONE
    found = [whole_flops(table, table.row(name), runs) for name in (line.row, "standard", line.alone)]
    whole, *alone = (flops for flops in found if flops is not None)  # each has a record
    return f"{whole / sum(alone):.2f}"


if __name__ == "__main__":
    main()

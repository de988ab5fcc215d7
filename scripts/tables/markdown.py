"""A table as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from scripts.tables import layout
from scripts.tables.description import Recipe, Table
from scripts.tables.layout import Grid
from scripts.tables.records import Record, Records

SCORE_NOTES = """\
BLEU, mean (standard deviation, n - 1) over seeds. "Ours" is sacreBLEU of detokenised text; "ours, tokenised" is of
Moses tokens, as the older literature has it (multi-bleu.perl)."""
PAPER_NOTES = "The paper says neither which BLEU it reports, nor over how many runs, nor which checkpoint it decodes."
STRONG_NOTES = "The paper's numbers are of its own recipe, not of this one."
COMPARISON_NOTES = """\
Difference in BLEU and p-value of sacreBLEU's paired bootstrap (1,000 resamples of the test set), seed by seed. The
p-value is of one side (of two equal networks it is below 0.5), is not corrected for the number of comparisons, and
speaks of other test sets of this kind, not of other seeds of the training."""
LEDGER_NOTES = """\
Joint: one training of all networks. Separate: the trainings alone to which it is compared above, together. PFLOP
(10^15): those of the average mini-batch, counted, times updates (`scripts/tables/training_cost.py`). Seconds: fairseq's
train_wall, on one device, without validation; their ratio is left out where runs of one row differ by more than a
fifth, which tells of a machine that did something else, too."""


def render(table: Table, records: Records, seeds: Sequence[int]) -> str:
    runs = records.runs()
    parts = [f"# {table.title}", f"{table.recipe.title}.", _grid(layout.scores(table, runs, seeds)), _notes(table)]
    if any(row.against for row in table.rows):
        parts += [
            "## Joint training against training alone",
            _grid(layout.comparisons(table, records, seeds), text_columns=3),
        ]
        parts += [COMPARISON_NOTES, "## Cost", _grid(layout.ledger(table, runs)), LEDGER_NOTES]
    rows = {row.name for row in table.rows}
    used = [record for (row, _), record in sorted(runs.items()) if row in rows]
    parts += ["## Where the numbers come from", _sources(table, records, used)]
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid, text_columns: int = 1) -> str:
    align = ["---"] * text_columns + ["---:"] * (len(grid.header) - text_columns)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (grid.header, align, *grid.rows))


def _notes(table: Table) -> str:
    notes = [SCORE_NOTES]
    if table.published_by == "paper":
        notes.append(STRONG_NOTES if table.recipe.is_strong else PAPER_NOTES)
    return "\n".join(notes)


def _sources(table: Table, records: Records, used: Sequence[Record]) -> str:
    recipe = table.recipe
    lines = [
        f"- `scripts/reproduce_table.sh {table.name}`; rows: `configs/{recipe.name}/`; data: `{recipe.prepare}`",
        f"- runs: `{records.path.name}`, one line each; hypotheses: `{records.hypotheses_folder.name}/`",
        f"- decoded: {_decoding(recipe)}",
    ]
    starts = [(record["row"], start) for record in used for start in (record, *record["timing"]["resumed"])]
    networks = [network for record in used for network in record["networks"].values()]
    for what, values in (
        ("sacreBLEU", (network["signature"] for network in networks)),
        ("tokenised", (network["tokenised_signature"] for network in networks)),
        ("options beside those of a row", (f"{row}: {shlex.join(s['options'])}" for row, s in starts if s["options"])),
        ("updates", (f"{record['updates']:,}" for record in used)),
        ("hardware", (start["hardware"] for _, start in starts)),
        ("commit", (start["commit"] or "unknown" for _, start in starts)),
        ("versions", (", ".join(f"{name} {version}" for name, version in r["versions"].items()) for r in used)),
    ):
        lines += [f"- {what}: {value}" for value in _different(values)]
    return "\n".join(lines)


def _decoding(recipe: Recipe) -> str:
    which = (
        "each network's best checkpoint by validation loss"
        if recipe.averaged_epochs is None
        else f"the average of the last {recipe.averaged_epochs} epochs"
    )
    beams = ", ".join(map(str, recipe.search.beams))
    penalties = ", ".join(map(str, recipe.search.length_penalties))
    tuned = " (chosen for each network on the validation set)" if recipe.search.is_tuned else ""
    return f"{which}; beam {beams}, length penalty {penalties}{tuned}"


def _different(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))

"""Write a table's page: scores, comparisons, cost, and where the numbers come from."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from itertools import chain

from tabulate import tabulate

from scripts.tables import layout
from scripts.tables.description import Recipe, Table
from scripts.tables.layout import Grid
from scripts.tables.records import Record, Records, scores_of

SCORE_NOTES = 'BLEU, mean (standard deviation, n - 1) over seeds. "Ours" is sacreBLEU of detokenised text.'
TOKENISED_NOTES = """\
BLEU of Moses tokens, as in older literature (multi-bleu.perl), differs from it by at most {:.2f} in these runs."""
PAPER_NOTES = "The paper says neither which BLEU it reports, nor over how many runs, nor which checkpoint it decodes."
STRONG_NOTES = "The paper's numbers are of its own recipe, not of this one."
COMPARISON_NOTES = """\
Difference in BLEU and p-value of sacreBLEU's paired bootstrap (1,000 resamples of the test set), seed by seed. The
p-value is of one side (of two equal networks it is below 0.5), is not corrected for the number of comparisons, and
speaks of other test sets of this kind, not of other seeds of the training."""
LEDGER_NOTES = """\
Joint: one training of all networks. Separate: the trainings alone to which it is compared above, together. PFLOP
(10^15): those of the average mini-batch, counted, times updates (`fairseq_ats/cost/training.py`). Seconds: fairseq's
train_wall, on one device, without validation. Their ratio is left out where runs of one row differ by more than a
fifth, which indicates other load on the machine."""

NEEDS_NOTES = """\
Where a training needs others (a start from their weights, or their translations), these count too. Translating is not
counted."""


def render(table: Table, records: Records, seeds: Sequence[int]) -> str:
    """Return the page.

    Args:
        seeds: seeds that are wanted.
    """
    runs = records.read()
    used = [record for row in sorted(row.name for row in table.rows) for record in layout.recorded(row, runs)]
    parts = [f"# {table.title}", f"{table.recipe.title}.", _grid(layout.scores(table, runs, seeds))]
    parts.append(_score_notes(table, used))
    header, rows = layout.other_scores(table, runs)
    if len(header) > 1:
        parts += ["## Other scores", _grid((header, rows))]
    if any(row.against for row in table.rows):
        parts += [
            "## Joint training against training alone",
            _grid(layout.comparisons(table, runs, seeds), text_columns=3),
        ]
        parts += [COMPARISON_NOTES, "## Cost", _grid(layout.ledger(table, runs)), LEDGER_NOTES]
        if any(row.needs for row in table.rows):
            parts[-1] += "\n" + NEEDS_NOTES
    parts += ["## Where the numbers come from", _sources(table, used)]
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid, text_columns: int = 1) -> str:
    header, rows = grid
    sides = ["left"] * text_columns + ["right"] * (len(header) - text_columns)
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=sides)


def _score_notes(table: Table, used: Sequence[Record]) -> str:
    notes = [SCORE_NOTES]
    scores = list(_scores(used))
    if scores:
        notes.append(TOKENISED_NOTES.format(max(abs(score["tokenised_bleu"] - score["bleu"]) for score in scores)))
    if table.published_by == "paper":
        notes.append(STRONG_NOTES if table.recipe.is_strong else PAPER_NOTES)
    return "\n".join(notes)


def _sources(table: Table, used: Sequence[Record]) -> str:
    recipe = table.recipe
    lines = [
        f"- `scripts/reproduce_table.sh {table.name}`; rows: `configs/{recipe.name}/`; data: `{recipe.prepare}`",
        f"- runs: `{recipe.name}/`, a file each; translations: `hypotheses/{recipe.name}/`",
        f"- decoded: {_decoding(recipe)}",
    ]
    own = [row for row in table.rows if row.averaged_epochs != "recipe"]
    lines += [f"- {row.name}, decoded: {_decoding(table.recipe_of(row))}" for row in own]
    lines += [
        f"- {row.name} needs {key.replace('_', ' ')}: {name}" for row in table.rows for key, name in row.needs.items()
    ]
    starts = [(record["row"], start) for record in used for start in record["starts"]]
    for what, values in (
        ("sacreBLEU", (score["signature"] for score in _scores(used))),
        ("tokenised", (score["tokenised_signature"] for score in _scores(used))),
        ("options beside those of a row", (f"{row}: {shlex.join(s['options'])}" for row, s in starts if s["options"])),
        ("updates", (f"{record['updates']:,}" for record in used)),
        ("hardware", (start["hardware"] for _, start in starts)),
        ("commit", (start["commit"] or "unknown" for _, start in starts)),
        ("versions", (", ".join(f"{name} {version}" for name, version in r["versions"].items()) for r in used)),
    ):
        lines += [f"- {what}: {value}" for value in dict.fromkeys(values)]
    return "\n".join(lines)


def _scores(used: Sequence[Record]) -> Iterable[dict]:
    return chain.from_iterable((scores_of(record, network) for network in record["networks"]) for record in used)


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

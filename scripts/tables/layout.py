"""A table's contents: cells of text from records, the same for Markdown and for the picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scripts.tables.comparison import digests_of, pairs
from scripts.tables.description import COLUMNS, Published, Row, Table
from scripts.tables.records import Record, Records, RunKey

NOT_RUN = "not run"
NONE = "-"
# Runs of one row take the same time on a machine that does nothing else.
QUIET = 1.2


@dataclass(frozen=True)
class Grid:
    """Cells; the first column is text, the others are numbers."""

    header: list[str]
    rows: list[list[str]]


def mean_std(values: Sequence[float]) -> str:
    """As the paper writes it; the standard deviation is that of a sample (n - 1), and one value has none."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ({statistics.stdev(values):.2f})"


def pflop(flops: float) -> str:
    """In 10^15, with three digits or, where there are more, all before the point."""
    peta = flops / 1e15
    return f"{peta:,.0f}" if peta >= 100 else f"{peta:.3g}"


def scores(table: Table, runs: Mapping[RunKey, Record], seeds: Sequence[int]) -> Grid:
    """The paper's own layout: a row a model, published and ours side by side for each network, over all seeds recorded.

    Args:
        seeds: that are wanted; a row with fewer says so.
    """
    names = ([f"{table.published_by}"] if table.published_by else []) + ["ours", "ours, tokenised"]
    header = ["Model", *(f"{column}: {name}" for column in table.columns.values() for name in names), "seeds"]
    rows = []
    for row in table.rows:
        records = recorded(row.name, runs)
        cells = [row.label]
        for network in table.columns:
            if table.published_by:
                cells.append(_published(row.published.get(network)))
            for score in ("bleu", "tokenised_bleu"):
                cells.append(_ours(network, score, row, records))
        done = len(records)
        rows.append([*cells, str(done) if done >= len(seeds) else f"{done} of {len(seeds)}"])
    return Grid(header, rows)


def recorded(row: str, runs: Mapping[RunKey, Record]) -> list[Record]:
    """The runs of a row, by seed."""
    return [record for (name, _), record in sorted(runs.items()) if name == row]


def _published(value: Published | None) -> str:
    if value is None:
        return NONE
    return f"{value.mean:.2f}" if value.std is None else f"{value.mean:.2f} ({value.std:.2f})"


def _ours(network: str, score: str, row: Row, records: Sequence[Record]) -> str:
    if network not in row.networks:
        return NONE
    return mean_std([record["networks"][network][score] for record in records]) if records else NOT_RUN


def comparisons(table: Table, records: Records, seeds: Sequence[int]) -> Grid:
    """Trained jointly against alone: the difference in BLEU and the paired bootstrap's p-value, for each seed.

    Args:
        seeds: that are wanted; others that are recorded stand beside them.
    """
    runs, compared = records.runs(), records.comparisons()
    seeds = tuple(sorted({*seeds, *(seed for _, seed in runs)}))
    labels = {row.name: row.label for row in table.rows}
    lines: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs(table, seeds):
        key = (labels[pair.ats[0]], COLUMNS[pair.network], labels[pair.alone[0]])
        found = compared.get((pair.ats[0], pair.network, pair.ats[1]))
        if pair.ats not in runs or pair.alone not in runs:
            cell = NOT_RUN
        elif found is None or found["hypotheses_sha256"] != digests_of(pair, runs):
            cell = "not compared"
        else:
            cell = f"{found['difference']:+.2f} (p = {found['p_value']:.3f})"
        lines.setdefault(key, []).append(cell)
    header = ["Model", "network", "against", *(f"seed {seed}" for seed in seeds)]
    return Grid(header, [[*key, *cells] for key, cells in lines.items()])


def ledger(table: Table, runs: Mapping[RunKey, Record]) -> Grid:
    """What one joint training costs, and the trainings that it stands for: means over seeds."""
    header = ["Model", "PFLOP: joint", "separate", "ratio", "seconds: joint", "separate", "ratio"]
    rows = []
    for row in table.rows:
        if not row.against:
            continue
        joint = recorded(row.name, runs)
        separate = [recorded(name, runs) for name in row.against.values()]
        if not joint or not all(separate):
            rows.append([row.label, *[NOT_RUN] * (len(header) - 1)])
            continue
        flops = [_mean(record["flops"] for record in group) for group in (joint, *separate)]
        cells = _ratio(flops[0], sum(flops[1:]), pflop)
        if len({record["hardware"] for group in (joint, *separate) for record in group}) > 1:
            cells += ["not on the same hardware", NONE, NONE]
        else:
            seconds = [_mean(r["timing"]["train_seconds"] for r in group) for group in (joint, *separate)]
            cells += _ratio(seconds[0], sum(seconds[1:]), "{:,.0f}".format)
            if not all(_was_quiet(group) for group in (joint, *separate)):
                cells[-1] = NONE
        rows.append([row.label, *cells])
    return Grid(header, rows)


def _was_quiet(group: Sequence[Record]) -> bool:
    """No other program slowed some of the runs of a row."""
    seconds = [record["timing"]["train_seconds"] for record in group]
    return max(seconds) <= QUIET * min(seconds)


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(list(values))


def _ratio(joint: float, separate: float, style: Callable[[float], str]) -> list[str]:
    ratio = f"{joint / separate:.2f}" if separate > 0 else NONE  # fairseq logs whole seconds
    return [style(joint), style(separate), ratio]

"""Arrange records as the cells of tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from scripts.tables.comparison import pairs
from scripts.tables.description import COLUMNS, Published, Row, Table
from scripts.tables.records import TEST, Record, RunKey

Runs = Mapping[RunKey, Record]
Grid = tuple[list[str], list[list[str]]]  # header, rows

METRICS = {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET"}
NOT_RUN = "not run"
NONE = "-"
# Runs of one row take the same time on a machine that does nothing else.
QUIET = 1.2


def mean_std(values: Sequence[float]) -> str:
    """Return mean and standard deviation as the paper writes them; the deviation is that of a sample (n - 1)."""
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ({statistics.stdev(values):.2f})"


def pflop(flops: float) -> str:
    """Return FLOPs in 10^15, with three digits or, where there are more, all before the point."""
    peta = flops / 1e15
    return f"{peta:,.0f}" if peta >= 100 else f"{peta:.3g}"


def recorded(row: str, runs: Runs) -> list[Record]:
    """Return the runs of a row, by seed."""
    return [record for (name, _), record in sorted(runs.items()) if name == row]


def whole_flops(table: Table, row: Row, runs: Runs) -> float | None:
    """Return the FLOPs of a row's training and of the trainings that it needs, means over seeds.

    Translating training data is not counted.

    Returns:
        None if a training is not recorded.
    """
    records, needed = recorded(row.name, runs), flops_of_needs(table, row, runs)
    return None if not records or needed is None else statistics.mean(record["flops"] for record in records) + needed


def flops_of_needs(table: Table, row: Row, runs: Runs) -> float | None:
    """Return the FLOPs of the trainings that a row's training needs, as :func:`whole_flops`."""
    total = 0.0
    for name in dict.fromkeys(row.needs.values()):
        needed = whole_flops(table, table.row(name), runs)
        if needed is None:
            return None
        total += needed
    return total


def scores(table: Table, runs: Runs, seeds: Sequence[int]) -> Grid:
    """Lay out BLEU as the paper does: a row for each model, published and ours side by side for each network.

    Args:
        seeds: seeds that are wanted; a row with fewer says so. Ours is over all that are recorded.
    """
    names = ([table.published_by] if table.published_by else []) + ["ours"]
    header = ["Model", *(f"{column}: {name}" for column in table.columns.values() for name in names), "seeds"]
    rows = []
    for row in table.rows:
        records = recorded(row.name, runs)
        cells = [row.label]
        for network in table.columns:
            if table.published_by:
                cells.append(_published(row.published.get(network)))
            cells.append(_ours(network, row, records))
        done = len(records)
        rows.append([*cells, str(done) if done >= len(seeds) else f"{done} of {len(seeds)}"])
    return header, rows


def _published(value: Published | None) -> str:
    if value is None:
        return NONE
    return f"{value.mean:.2f}" if value.std is None else f"{value.mean:.2f} ({value.std:.2f})"


def _ours(network: str, row: Row, records: Sequence[Record], test_set: str = TEST, metric: str = "bleu") -> str:
    if network not in row.networks:
        return NONE
    tests = [record["networks"][network]["tests"].get(test_set, {}) for record in records]
    values = [scores[metric] for scores in tests if metric in scores]
    return mean_std(values) if values else NOT_RUN


def other_scores(table: Table, runs: Runs) -> Grid:
    """Lay out what is recorded beside BLEU on the test set: chrF, COMET, and the scores on further test sets."""
    kinds: dict[tuple[str, str], None] = {}
    for row in table.rows:
        for record in recorded(row.name, runs):
            for network in record["networks"].values():
                for name, scores in network["tests"].items():
                    kinds |= {(name, metric): None for metric in METRICS if metric in scores}
    kinds.pop((TEST, "bleu"), None)
    columns = [(network, heading, *kind) for network, heading in table.columns.items() for kind in kinds]
    header = ["Model", *(f"{heading}: {METRICS[metric]}, {name}" for _, heading, name, metric in columns)]
    rows = [
        [
            row.label,
            *(_ours(network, row, recorded(row.name, runs), name, metric) for network, _, name, metric in columns),
        ]
        for row in table.rows
    ]
    return header, rows


def comparisons(table: Table, runs: Runs, seeds: Sequence[int]) -> Grid:
    """Lay out joint training against training alone: the difference in BLEU and the p-value, for each seed.

    Args:
        seeds: seeds that are wanted; others that are recorded stand beside them.
    """
    seeds = tuple(sorted({*seeds, *(seed for _, seed in runs)}))
    labels = {row.name: row.label for row in table.rows}
    lines: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs(table, seeds):
        found = pair.comparison(runs)
        if pair.scores(runs) is None:
            cell = NOT_RUN
        elif found is None:
            cell = "not compared"
        else:
            cell = f"{found['difference']:+.2f} (p = {found['p_value']:.3f})"
        key = (labels[pair.ats[0]], COLUMNS[pair.network], labels[pair.alone[0]])
        lines.setdefault(key, []).append(cell)
    header = ["Model", "network", "against", *(f"seed {seed}" for seed in seeds)]
    return header, [[*key, *cells] for key, cells in lines.items()]


def ledger(table: Table, runs: Runs) -> Grid:
    """Lay out what one joint training costs, and the trainings that it stands for: means over seeds."""
    header = ["Model", "PFLOP: joint", "separate", "ratio", "seconds: joint", "separate", "ratio"]
    rows = []
    for row in table.rows:
        if not row.against:
            continue
        of_rows = (row.name, *row.against.values())
        groups = [recorded(name, runs) for name in of_rows]
        flops = [whole for name in of_rows if (whole := whole_flops(table, table.row(name), runs)) is not None]
        if len(flops) < len(of_rows):
            rows.append([row.label, *[NOT_RUN] * (len(header) - 1)])
            continue
        cells = _ratio(flops, pflop)
        if any(table.row(name).needs for name in of_rows):
            rows.append([row.label, *cells, *["of several runs", NONE, NONE]])
            continue
        if len({record["starts"][0]["hardware"] for group in groups for record in group}) > 1:
            cells += ["not on the same hardware", NONE, NONE]
        else:
            seconds = [[record["timing"]["train_seconds"] for record in group] for group in groups]
            cells += _ratio([statistics.mean(group) for group in seconds], "{:,.0f}".format)
            if not all(max(group) <= QUIET * min(group) for group in seconds):
                cells[-1] = NONE
        rows.append([row.label, *cells])
    return header, rows


def _ratio(costs: Sequence[float], style: Callable[[float], str]) -> list[str]:
    """Return the first cost, the sum of the others, and their ratio."""
    joint, separate = costs[0], sum(costs[1:])
    ratio = f"{joint / separate:.2f}" if separate > 0 else NONE  # fairseq logs whole seconds
    return [style(joint), style(separate), ratio]

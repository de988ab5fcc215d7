#!/usr/bin/env python3
"""Draw Figure 4, or Figures 2 and 3, of the paper from the logs of real trainings, with one curve for each training.

    python -m scripts.figures.criteria OUTPUT standard=RUN/train.log ATS=RUN/train.log
    python -m scripts.figures.criteria --figures 23 OUTPUT "with dropout=RUN/train.log" "without=RUN/train.log"

The trainings must run with ``--criteria-interval``, ``--log-format json`` and ``--log-file``. The script writes two
files. OUTPUT.png has the panels of the paper's figures over updates. Figure 4: gradient overlap c_norm², norm
similarity c_sim and gradient alignment c_align. Figure 2: c_sim and c_align. Figure 3: the cosine, which is 1 / c_align
where the gradients are aligned; a training logs it with ``--criteria-of``. Thin lines show the numbers, and thick lines
show their moving average. OUTPUT.jsonl has the numbers, with one line for each line of a log. A number is the mean over
the measured updates of the log interval that ends at ``num_updates``; it is null if it is infinite.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.files import written_whole
from fairseq_ats.partition.names import CRITERIA, PERTURBATION
from scripts.figures.png import new_figure, write_png

Record = dict[str, float]

COSINE = "cosine"

# Title of the panel, label of the y axis, function from a record to the value.
Panel = tuple[str, str, Callable[[Record], float]]
C_SIM = ("‖p⊙∇f(x)‖ / ‖p⊙∇f(x̃)‖", lambda record: record["c_sim"])
C_ALIGN = ("‖p⊙∇f(x)‖ ‖p⊙∇f(x̃)‖ / ⟨p⊙∇f(x), p⊙∇f(x̃)⟩", lambda record: record["c_align"])
PANELS: dict[str, tuple[Panel, ...]] = {
    "4": (
        ("(a) gradient overlap", "‖∇f(x)‖² / ‖p⊙∇f(x)‖²", lambda record: record["c_norm"] ** 2),
        ("(b) norm similarity", *C_SIM),
        ("(c) gradient alignment", *C_ALIGN),
    ),
    "23": (
        ("Figure 2: Criterion 2", *C_SIM),
        ("Figure 2: Criterion 3", *C_ALIGN),
        ("Figure 3: cosine", "⟨p⊙∇f(x), p⊙∇f(x̃)⟩ / ‖p⊙∇f(x)‖ ‖p⊙∇f(x̃)‖", lambda record: record[COSINE]),
    ),
}
AVERAGED = 9  # number of records in the moving average
LINEAR = 50  # a panel whose values differ by a larger factor, and are positive, has a logarithmic axis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", choices=PANELS, default="4", help="of the paper (default: 4)")
    args, runs = read_runs(parser, lambda args: [] if args.figures == "4" else [COSINE])
    draw(runs, Path(f"{args.output}.png"), PANELS[args.figures])
    print(summary(runs))


def read_runs(
    parser: argparse.ArgumentParser, needed: Callable[[argparse.Namespace], Sequence[str]]
) -> tuple[argparse.Namespace, dict[str, list[Record]]]:
    """Read the command line and the criteria of each log, and write them as OUTPUT.jsonl.

    Args:
        needed: from the options what a log must have besides the criteria.
    """
    parser.add_argument("output", type=Path, help="path of the files that are written, without their endings")
    parser.add_argument("logs", nargs="+", metavar="NAME=LOG", help="name of a training, and its log")
    args = parser.parse_args()
    silence_libraries()
    if not args.output.parent.is_dir():
        parser.error(f"argument output: {args.output.parent} is not a folder")
    runs = {}
    for argument in args.logs:
        name, equals, path = argument.partition("=")
        if not (name and equals and Path(path).is_file()):
            parser.error(f"argument logs: {argument} is not allowed; allowed: NAME=LOG, where LOG is a file")
        runs[name] = read_criteria(Path(path))
        if not runs[name]:
            parser.error(f"argument logs: {path} has no criteria; train with --criteria-interval and --log-format json")
        missing = [quantity for quantity in needed(args) if quantity not in runs[name][0]]
        if missing:
            parser.error(f"argument logs: {path} has no {', '.join(missing)}; train with --criteria-of")
    with written_whole(f"{args.output}.jsonl") as path, path.open("w", encoding="utf-8") as file:
        for name, records in runs.items():
            for record in records:
                # JSON has no infinity.
                numbers = {key: value if math.isfinite(value) else None for key, value in record.items()}
                file.write(json.dumps({"run": name} | numbers) + "\n")
    return args, runs


def read_criteria(log: Path) -> list[Record]:
    """Read the criteria from the lines of a log, in the order of the updates.

    fairseq writes the same line once for each epoch that the process has started (fairseq/logging/progress_bar.py:45).
    Keep one record for each update.
    """
    by_update = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("{"):
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue  # the options at the start of the log, or an unfinished line
        if CRITERIA[0] in values and "num_updates" in values:
            update = int(values["num_updates"])
            names = [*CRITERIA, *(name for name in PERTURBATION if name in values)]
            by_update[update] = {"num_updates": update} | {name: float(values[name]) for name in names}
    return [by_update[update] for update in sorted(by_update)]


def draw(runs: dict[str, list[Record]], path: Path, panels: Sequence[Panel]) -> None:
    """Draw the figure. Leave out points that are infinite because the gradients are not aligned."""
    figure = new_figure(12, 3.6)
    axes = figure.subplots(1, len(panels))
    for axis, (title, label, value) in zip(axes, panels, strict=True):
        drawn: list[float] = []
        for number, (name, records) in enumerate(runs.items()):
            points = [(record["num_updates"], value(record)) for record in records]
            points = [(x, y) for x, y in points if math.isfinite(y)]
            x, y = [x for x, _ in points], [y for _, y in points]
            axis.plot(x, y, color=f"C{number}", linewidth=0.6, alpha=0.4)
            axis.plot(x, moving_average(y), color=f"C{number}", label=name)
            drawn += y
        if drawn and 0 < LINEAR * min(drawn) < max(drawn):  # one measurement would flatten all others
            axis.set_yscale("log")
        axis.set(title=title, xlabel="update")
        axis.set_ylabel(label, fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.set_dpi(150)
    write_png(figure, path)


def moving_average(values: list[float]) -> list[float]:
    """Return the average over a window around each value. The window is shorter at both ends."""
    half = AVERAGED // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def summary(runs: dict[str, list[Record]]) -> str:
    """Return a Markdown table of means over all records and over the last quarter of the records.

    The last column counts the records without alignment. In these records c_align, alpha_t and q_t are infinite or
    negative, so the means of these three leave them out.
    """
    header = ["run", "records", "c_norm²", "c_sim", "c_align", "alpha_t", "q_t", "without alignment"]
    has_cosine = all(COSINE in records[0] for records in runs.values())
    header += [COSINE] if has_cosine else []
    rows = []
    for name, records in runs.items():
        for part, chosen in (("all", records), ("last quarter", records[-max(1, len(records) // 4) :])):
            aligned = [record for record in chosen if math.isfinite(record["c_align"])]
            columns = [sum(r["c_norm"] ** 2 for r in chosen) / len(chosen)]
            columns += [sum(r["c_sim"] for r in chosen) / len(chosen)]
            columns += [sum(r[c] for r in aligned) / max(1, len(aligned)) for c in ("c_align", "alpha_t", "q_t")]
            numbers = [f"{column:.3f}" for column in columns]
            rows.append([name, f"{part} ({len(chosen)})", *numbers, str(len(chosen) - len(aligned))])
            rows[-1] += [f"{sum(r[COSINE] for r in chosen) / len(chosen):.3f}"] if has_cosine else []
    sides = ["left"] * 2 + ["right"] * (len(header) - 2)
    return tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=sides)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Train, decode and score every row of a table, with every seed, and draw the table.

    scripts/reproduce_table.sh 1a
    scripts/reproduce_table.sh 1a --seeds 1 --data DIR -- --fp16 --fp16-no-flatten-grads

Can be stopped and called again at any time: what is recorded is not done again, an interrupted training is resumed,
and a finished one that another program made in the same folder is taken as it is. Tables of one recipe share their
runs. Runs are made one after the other; several calls with other --rows or --seeds, on other GPUs or machines, can
work side by side. Options after -- go to fairseq-train.

RUNS/RECIPE/ROW/seedN           a training: checkpoints, train.log
RESULTS/RECIPE/ROW.seedN.json   a run's record: all that a table needs; the run's folder can then be removed
RESULTS/RECIPE/ROW.seedN.curve.jsonl   its validations (python -m scripts.figures.table_curves draws them)
RESULTS/hypotheses/RECIPE/      translations of the test set
RESULTS/TABLE.md                the table, of all that is recorded
RESULTS/TABLE.flops.png         BLEU of each network against the FLOPs of its training
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import infer_language_pair

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.config_file import read_config
from fairseq_ats.cli.environment import restart_in_cpu_environment, silence_libraries
from fairseq_ats.cli.hardware import check_device, hardware
from fairseq_ats.files import written_whole
from scripts.tables import flops_picture, markdown
from scripts.tables.comparison import compare
from scripts.tables.description import ROOT, Table, read_tables, shown
from scripts.tables.layout import pflop
from scripts.tables.measurement import measure
from scripts.tables.needs import Needs
from scripts.tables.plan import planned_cost
from scripts.tables.records import Records, scores_of
from scripts.tables.runs import FINISHED, NEW, BusyError, Run, train
from scripts.tables.scoring import Decoding, References, read_references

NAME = "reproduce_table"
# Options of fairseq-train that say which run it is, and where.
OF_A_RUN = {"--seed", "--save-dir", "--log-file", "--checkpoint-suffix"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a run that was asked for could not be made."""
    args = parse_args(sys.argv[1:] if arguments is None else list(arguments))
    silence_libraries(logging.ERROR)  # sacreBLEU warns of text that looks tokenised, as that of weak networks does
    if arguments is None and not args.render:
        restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    return Reproduction.of(args).complete()


def parse_args(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; what comes after -- is in ``fairseq_options``."""
    tables = read_tables()
    parser = parser_of(__doc__, tables)
    parser.add_argument("--batch-size", type=positive, default=64, help="sentences decoded at once (default: 64)")
    parser.add_argument("--tests", type=Path, metavar="DIR", help="further test sets: raw text in DIR/NAME.LANGUAGE")
    parser.add_argument("--comet", type=Path, metavar="FILE", help="also score with this checkpoint of COMET")
    return parsed(parser, arguments, tables)


def parser_of(description: str | None, tables: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that tables of every task have; :func:`parsed` reads them."""
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce_table.sh", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--seeds", type=seeds_of, default=(1, 2, 3), help="default: 1,2,3")
    parser.add_argument("--rows", type=names, metavar="ROW,...", help="only these rows, by configuration file")
    parser.add_argument("--data", type=Path, help="folder of the prepared data (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/tables", help="default: runs/tables")
    parser.add_argument("--results", type=Path, default=ROOT / "results/tables", help="default: results/tables")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="train and decode there (default: as the rows say)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")
    what.add_argument("--finished-only", action="store_true", help="train nothing: score what is finished, and draw")
    what.add_argument("--render", action="store_true", help="only draw the table of what is recorded")
    parser.add_argument(
        "--again", action="store_true", help="score runs that are recorded once more, from their checkpoints"
    )
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: list[str], tables: Mapping[str, Any]) -> argparse.Namespace:
    """Return what :func:`parser_of` reads, with the ``table`` of that name and the ``fairseq_options`` after --."""
    ours, separator, options = cut(arguments)
    args = parser.parse_args(ours)
    args.table, args.fairseq_options = tables[args.name], options
    if separator and not options:
        parser.error("nothing comes after --; allowed: options of fairseq-train")
    for option in OF_A_RUN & {option.partition("=")[0] for option in options}:
        parser.error(f"{option} after -- is not allowed: each run has its own; see --seeds and --runs")
    unknown = set(args.rows or ()) - {row.name for row in args.table.rows}
    if unknown:
        allowed = ", ".join(row.name for row in args.table.rows)
        parser.error(f"argument --rows: {', '.join(sorted(unknown))} is not allowed; allowed: {allowed}")
    return args


def cut(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Split at --, which argparse would drop; return what is before, whether it is there, and what is after."""
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def seeds_of(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(positive(seed) for seed in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, with commas between them") from error
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: each seed once")
    return seeds


class TrainingFailed(Exception):
    """fairseq-train ended before the end of the training."""


@dataclass(frozen=True)
class Reproduction:
    """One call of the command."""

    args: argparse.Namespace
    table: Table
    records: Records
    data: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> Reproduction:
        recipe = args.table.recipe
        return cls(args, args.table, Records(args.results, recipe.name), args.data or ROOT / recipe.data)

    def complete(self) -> int:
        """Do what the options ask for; return 1 if a run could not be made."""
        problems: list[str] = []
        try:
            if self.args.dry_run:
                self.print_plan()
                return 0
            if not self.args.render:
                problems = self.run()
            self.draw()
        except ValueError as error:
            sys.exit(f"{NAME}: {error}")
        for problem in problems:
            print(f"{NAME}: {problem}", file=sys.stderr)
        return 1 if problems else 0

    def missing(self) -> list[Run]:
        """Return the runs to make: all rows with one seed, then with the next."""
        recorded = {} if self.args.again else self.records.read()
        rows = [row.name for row in self.table.rows if self.args.rows is None or row.name in self.args.rows]
        runs = [self._run(row, seed) for seed in self.args.seeds for row in rows]
        return [run for run in runs if (run.row, run.seed) not in recorded]

    def _run(self, row: str, seed: int) -> Run:
        return Run(self.table.recipe, row, seed, self.args.runs)

    def print_plan(self) -> None:
        """Print the commands of every missing run, then what each row costs."""
        missing = self.missing()
        made: set[str] = set()
        for run in missing:
            print(f"# {run}: {run.state()}")
            for line in map(shlex.join, [*self._needs(run).commands(self.args.threads), self._command(run)]):
                if line not in made:
                    print(line, flush=True)
                made.add(line)
        print("# cost of a run from its start, counted:", flush=True)
        total = 0
        for row in dict.fromkeys(run.row for run in missing):
            updates, flops = planned_cost(self.table.recipe, row, self.table.row(row).workers)
            print(f"# {row}: {updates:,} updates, {pflop(flops)} PFLOP", flush=True)
            total += flops * sum(run.row == row for run in missing)
        print(f"# together, {len(missing)} runs: {pflop(total)} PFLOP")

    def run(self) -> list[str]:
        """Train and score what is missing, and compare what is recorded; return a sentence for each run that failed."""
        missing = self.missing()
        if missing:
            check_device(self.args.device)
            self._check_data()
        elif not self.args.finished_only:
            print(f"{NAME}: all is recorded in {shown(self.records.folder)}; --results DIR --runs DIR makes new runs")
        if not self.data.is_dir():
            return []  # records of another machine are drawn without data
        references = self._references()
        problems = []
        for run in missing:
            if self.args.finished_only and run.state() != FINISHED:
                continue
            try:
                self._train(run)
                self._record(run, references)
            except (BusyError, TrainingFailed, ValueError) as error:
                problems.append(f"{run}: {error}")
        self._compare(references)
        return problems

    def _references(self) -> Any:
        """Return what the networks' outputs are compared with."""
        return read_references(self.data)

    def _compare(self, references: Any) -> None:
        compare(self.table, self.records, references)

    def draw(self) -> None:
        """Draw the table of all that is recorded."""
        folder = self.args.results
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / f"{self.table.name}.md") as path:
            path.write_text(markdown.render(self.table, self.records, self.args.seeds), encoding="utf-8")
        flops_picture.draw(self.table, self.records.read(), folder / f"{self.table.name}.flops.png")

    def _check_data(self) -> None:
        recipe = self.table.recipe
        if not self.data.is_dir():
            raise ValueError(f"--data is {shown(self.data)}, which is not a folder; `{recipe.prepare}` makes it")
        languages = tuple(infer_language_pair(str(self.data)))
        if languages != recipe.languages:
            raise ValueError(
                f"--data is {shown(self.data)}, which holds {_arrow(languages)}; table {self.table.name} is of "
                f"{_arrow(recipe.languages)}, and `{recipe.prepare}` makes its data"
            )

    def _command(self, run: Run) -> list[str]:
        needs = self._needs(run)
        device = ["--device", self.args.device] if self.args.device is not None else []
        options, workers = [*device, *needs.options, *self.args.fairseq_options], self.table.row(run.row).workers
        return run.command(needs.training_data, self.args.threads, options, workers)

    def _needs(self, run: Run) -> Needs:
        """Return what a run needs of the runs of other rows, each with its own way of choosing checkpoints."""
        sources = {
            key: replace(run, row=name, recipe=self.table.recipe_of(self.table.row(name)))
            for key, name in self.table.row(run.row).needs.items()
        }
        return Needs(self.data, sources)

    def _train(self, run: Run) -> None:
        """Train a run to its end, unless it is there.

        Raises:
            BusyError: another process trains this run.
            TrainingFailed: fairseq ended before the end of the training, or what it needs was not made.
            ValueError: a run that it needs is not there, or the training was begun without it.
        """
        needs = self._needs(run)
        if needs.sources and run.state() != NEW and not any("needs" in start for start in run.starts()):
            raise ValueError(f"it was begun without what it needs of other runs; move {shown(run.folder)} away")
        if run.state() == FINISHED:
            return
        needs.check()
        console = run.folder / "console.log"
        with run.locked() as lock:
            for command in needs.commands(self.args.threads):
                print(f"{NAME}: {run}: {shlex.join(command)}", flush=True)
                status = train(command, console, lock)
                if status != 0:
                    raise TrainingFailed(f"{command[1]} ended with status {status}: {_last_line(console)}")
            command = self._command(run)
            print(f"{NAME}: {run}: training ({run.state()} so far); log: {shown(run.log)}", flush=True)
            run.note_start(shlex.join(command), self.args.fairseq_options, self._hardware(run), needs.stamp())
            status = train(command, console, lock)
        if status != 0 or run.state() != FINISHED:
            raise TrainingFailed(f"the training ended with status {status}: {_last_line(console)}")

    def _record(self, run: Run, references: References) -> None:
        row = self.table.row(run.row)
        run = replace(run, recipe=self.table.recipe_of(row))
        decoding = Decoding(self._device(run), self.args.batch_size, self.args.tests, self.args.comet)
        record, hypotheses, curve = measure(run, row, self.data, references, decoding, self._hardware(run))
        self.records.write_curve(record, curve)
        self.records.write(record, hypotheses)
        compare(self.table, self.records, references)
        self.draw()
        bleu = ", ".join(f"{network} {scores_of(record, network)['bleu']:.2f}" for network in record["networks"])
        print(f"{NAME}: {run}: BLEU {bleu}", flush=True)

    def _device(self, run: Run) -> str:
        if self.args.device is not None:
            return str(self.args.device)
        on_cpu = "cpu" in read_config(run.recipe.config(run.row)) or "--cpu" in self.args.fairseq_options
        return "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"

    def _hardware(self, run: Run) -> str:
        return hardware(self._device(run), self.args.threads)


def _last_line(console: Path) -> str:
    return console.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-1]


def _arrow(languages: Sequence[str | None]) -> str:
    return "→".join(str(language) for language in languages) if None not in languages else "no binarised data"


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Train, decode and score every row of a table, with every seed, and draw the table.

    scripts/reproduce_table.sh 1a
    scripts/reproduce_table.sh 1a --seeds 1 --data DIR -- --fp16 --fp16-no-flatten-grads

Can be stopped and called again at any time: what is recorded is not done again, a training that was interrupted is
resumed, and one that another program finished in the same folder is taken as it is. Tables of one recipe share their
runs. Options after -- go to fairseq-train.

RUNS/RECIPE/ROW/seedN          a training: checkpoints, train.log
RESULTS/RECIPE.jsonl           a line for each run: what a table needs; the run's folder can then be removed
RESULTS/RECIPE/                hypotheses; RECIPE.comparisons.jsonl: paired bootstraps of them
RESULTS/TABLE.md, TABLE.png    the table, of all that is recorded
RESULTS/TABLE.flops.png        BLEU of each network against the FLOPs of its training
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from cpu_environment import restart_in_cpu_environment
from fairseq.data.data_utils import infer_language_pair
from measuring import hardware
from quiet import silence_libraries
from tables import flops_picture, markdown, picture
from tables.comparison import compare
from tables.description import ROOT, Table, read_tables, shown
from tables.expectation import Expectation, expect
from tables.measurement import measure
from tables.records import Records
from tables.runs import FINISHED, BusyError, Run, train
from tables.scoring import Decoding, References, read_references

from fairseq_ats.arguments import positive
from fairseq_ats.whole_files import written_whole

NAME = "reproduce_table"
# Options of fairseq-train that say which run it is, and where.
OF_A_RUN = {"--seed", "--save-dir", "--log-file", "--checkpoint-suffix"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 if a run that was asked for could not be made."""
    args = parse_args(sys.argv[1:] if arguments is None else list(arguments))
    silence_libraries(logging.ERROR)  # sacreBLEU warns of text that looks tokenised, as that of weak networks does
    if arguments is None and not args.render:
        restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    try:
        reproduction = Reproduction.of(args)
        if args.dry_run:
            reproduction.print_plan()
            return 0
        if not args.render:
            reproduction.check_data()
            problems = reproduction.run()
            if reproduction.data.is_dir():
                reproduction.compare(read_references(reproduction.data))
        else:
            problems = []
        reproduction.draw()
    except ValueError as error:
        sys.exit(f"{NAME}: {error}")
    for problem in problems:
        print(f"{NAME}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse_args(arguments: list[str]) -> argparse.Namespace:
    tables = read_tables()
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce_table.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--seeds", type=_seeds, default=(1, 2, 3), help="default: 1,2,3")
    parser.add_argument("--rows", type=_names, metavar="ROW,...", help="only these rows, by configuration file")
    parser.add_argument("--data", type=Path, help="folder of the binarised data (default: that of the recipe)")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/tables", help="default: runs/tables")
    parser.add_argument("--results", type=Path, default=ROOT / "results/tables", help="default: results/tables")
    parser.add_argument("--jobs", type=positive, default=1, help="trainings at once, one GPU each where there are GPUs")
    parser.add_argument("--threads", type=positive, help="CPU threads of each (default: the cores, shared by the jobs)")
    parser.add_argument("--batch-size", type=positive, default=64, help="sentences decoded at once (default: 64)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the commands and the expected cost, and stop")
    what.add_argument("--finished-only", action="store_true", help="train nothing: score what is finished, and draw")
    what.add_argument("--render", action="store_true", help="only draw the table of what is recorded")
    parser.add_argument(
        "--again", action="store_true", help="score also runs that are recorded, from their checkpoints"
    )
    ours, separator, options = _cut(arguments)
    args = parser.parse_args(ours)
    args.fairseq_options = options
    if separator and not options:
        parser.error("nothing comes after --; allowed: options of fairseq-train")
    for option in OF_A_RUN & {option.partition("=")[0] for option in options}:
        parser.error(f"{option} after -- is not allowed: each run has its own; see --seeds and --runs")
    args.table = tables[args.table]
    unknown = set(args.rows or ()) - {row.name for row in args.table.rows}
    if unknown:
        allowed = ", ".join(row.name for row in args.table.rows)
        parser.error(f"argument --rows: {', '.join(sorted(unknown))} is not allowed; allowed: {allowed}")
    args.threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    return args


def _cut(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Before --, whether there is one, after it. argparse would take what comes after for a second TABLE."""
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(positive(seed) for seed in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, with commas between them") from error
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: each seed once")
    return seeds


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

    def missing(self) -> list[Run]:
        """What is to be done, one seed of all rows after the other."""
        recorded = {} if self.args.again else self.records.runs()
        rows = [row.name for row in self.table.rows if self.args.rows is None or row.name in self.args.rows]
        runs = [Run(self.table.recipe, row, seed, self.args.runs) for seed in self.args.seeds for row in rows]
        return [run for run in runs if (run.row, run.seed) not in recorded]

    def check_data(self) -> None:
        """Before any work is done; a table of which everything is recorded needs no data."""
        if not self.missing():
            return
        recipe = self.table.recipe
        if not self.data.is_dir():
            raise ValueError(f"--data is {shown(self.data)}, which is not a folder; `{recipe.prepare}` makes it")
        languages = tuple(infer_language_pair(str(self.data)))
        if languages != recipe.languages:
            raise ValueError(
                f"--data is {shown(self.data)}, which holds {_arrow(languages)}; table {self.table.name} is of "
                f"{_arrow(recipe.languages)}, and `{recipe.prepare}` makes its data"
            )

    # The plan.

    def print_plan(self) -> None:
        runs, missing = self.records.runs(), self.missing()
        for run in missing:
            print(f"# {run}: {run.state()}")
            print(shlex.join(self._command(run)), flush=True)
        # After the commands: a model of every row is built, and an update of it counted.
        print("# expected cost of a run from its start:", flush=True)
        total = Expectation(0, 0, 0.0)
        for row in dict.fromkeys(run.row for run in missing):
            expected = expect(self.table.recipe, row, runs)
            print(f"# {row}: {expected}", flush=True)
            for _ in range(sum(run.row == row for run in missing)):
                total += expected
        print(f"# together, {len(missing)} runs: {total}")

    def _command(self, run: Run) -> list[str]:
        return run.command(self.data, self.args.threads, self.args.fairseq_options)

    # The work.

    def run(self) -> list[str]:
        """Train and score what is missing; what could not be done, in sentences."""
        problems = []
        missing = self.missing()
        if self.args.finished_only:
            missing = [run for run in missing if run.state() == FINISHED]
        if not missing:
            if not self.args.finished_only:
                print(f"{NAME}: all is recorded in {shown(self.records.path)}; --results DIR --runs DIR makes new runs")
            return []
        references = read_references(self.data)
        devices = _devices(self.args.jobs)
        with ThreadPoolExecutor(self.args.jobs) as pool:
            trainings = {pool.submit(self._train, run, devices): run for run in missing}
            try:
                for training in as_completed(trainings):
                    run = trainings[training]
                    try:
                        training.result()
                        self._record(run, references)
                    except (BusyError, TrainingFailed, ValueError) as error:
                        problems.append(f"{run}: {error}")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return problems

    def _train(self, run: Run, devices: queue.Queue[str | None]) -> None:
        """In a thread of its own, to the end of the training.

        Raises:
            BusyError: another process trains this run.
            TrainingFailed: fairseq ended without the end of the training.
        """
        if run.state() == FINISHED:
            return
        device = devices.get()
        try:
            with run.locked() as lock:
                if run.state() == FINISHED:
                    return
                command = self._command(run)
                print(f"{NAME}: {run}: training ({run.state()} so far); log: {shown(run.log)}", flush=True)
                run.note_start(shlex.join(command), self.args.fairseq_options, self._hardware(run))
                environment = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
                status = train(command, run.folder / "console.log", lock, environment)
        finally:
            devices.put(device)
        if status != 0 or run.state() != FINISHED:
            last = (run.folder / "console.log").read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-1]
            raise TrainingFailed(f"the training ended with status {status}: {last}")

    def _record(self, run: Run, references: References) -> None:
        row = next(row for row in self.table.rows if row.name == run.row)
        decoding = Decoding(self._device(run), self.args.batch_size)
        record, hypotheses = measure(run, row, self.data, references, decoding, self._hardware(run))
        self.records.add_run(record, hypotheses)
        self.compare(references)
        self.draw()
        bleu = ", ".join(f"{name} {network['bleu']:.2f}" for name, network in record["networks"].items())
        print(f"{NAME}: {run}: BLEU {bleu}", flush=True)

    def compare(self, references: References) -> None:
        """Every pair of runs that are recorded, here or on another machine."""
        seeds = tuple(sorted({seed for _, seed in self.records.runs()}))
        compare(self.table, seeds, self.records, references)

    def _device(self, run: Run) -> str:
        options = yaml.safe_load(run.recipe.config(run.row).read_text(encoding="utf-8"))
        on_cpu = options.get("cpu", False) or "--cpu" in self.args.fairseq_options or not torch.cuda.is_available()
        return "cpu" if on_cpu else "cuda"

    def _hardware(self, run: Run) -> str:
        return hardware(self._device(run), self.args.threads)

    # The table.

    def draw(self) -> None:
        folder = self.args.results
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / f"{self.table.name}.md") as path:
            path.write_text(markdown.render(self.table, self.records, self.args.seeds), encoding="utf-8")
        runs = self.records.runs()
        picture.draw(self.table, runs, self.args.seeds, folder / f"{self.table.name}.png")
        flops_picture.draw(self.table, runs, folder / f"{self.table.name}.flops.png")


class TrainingFailed(Exception):
    """fairseq-train ended before the end of the training."""


def _arrow(languages: Sequence[str | None]) -> str:
    return "→".join(str(language) for language in languages) if None not in languages else "no binarised data"


def _devices(jobs: int) -> queue.Queue[str | None]:
    """One device for each job: a run of the paper has one. None where there is no GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    devices: queue.Queue[str | None] = queue.Queue()
    for job in range(jobs):
        devices.put(names[job % len(names)] if names else None)
    return devices


if __name__ == "__main__":
    sys.exit(main())

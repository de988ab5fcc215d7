#!/usr/bin/env python3
"""Train and score every row of Table 3 (ResNet-18 on CIFAR-10), with every seed, and draw the table.

    scripts/reproduce_table.sh 3
    scripts/reproduce_table.sh 3 --seeds 1 --rows alternate,slimmable

Table 3 has a quarter of the paper's width, so that it trains on a CPU; 3_full is of the paper's size, for a GPU. Can be
stopped and called again at any time: what is recorded is not done again, an interrupted training is resumed, and a
finished one that another program made in the same folder is taken as it is. Options after -- go to fairseq-train.

RUNS/RECIPE/ROW/seedN           a training: checkpoints, train.log
RESULTS/RECIPE/ROW.seedN.json   a run's record: all that the table needs; the run's folder can then be removed
RESULTS/RECIPE.md               the table, of all that is recorded
"""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.names import best_checkpoint
from fairseq_ats.cli.environment import restart_in_cpu_environment, silence_libraries
from fairseq_ats.cost.cost import training_flops
from fairseq_ats.cost.images import PAPER_IMAGES, image_cost, paper_cost
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.files import written_whole
from fairseq_ats.inference.classifier import Classifier
from fairseq_ats.inference.image_loading import load_image_network
from fairseq_ats.options.run_options import recall_
from fairseq_ats.options.values import Options
from fairseq_ats.training.log_file import TrainingLog
from scripts.tables.description import ROOT, shown
from scripts.tables.layout import NONE, NOT_RUN, mean_std, recorded
from scripts.tables.measurement import origin_of
from scripts.tables.needs import Needs
from scripts.tables.records import TEST, Record, RunKey, scores_of
from scripts.tables.reproduce import NAME, Reproduction, parsed, parser_of
from scripts.tables.runs import Run

HEADINGS = {"core": "Core", "super": "Full"}
COUNTED = 1000  # images of which the cost is counted


@dataclass(frozen=True)
class ImageRow:
    """A row of the table.

    Args:
        name: of the configuration file.
        published: the paper's accuracy of each network; empty: the paper does not have the row.
        published_tflops: the paper's FLOPs an epoch.
        against: network → the row with which the network is compared.
        first_seed_only: the row is as long as two others.
    """

    name: str
    label: str
    networks: tuple[str, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    published_tflops: str = NONE
    against: Mapping[str, str] = field(default_factory=dict)
    first_seed_only: bool = False


ROWS = (
    ImageRow("standard", "standard", ("super",)),
    ImageRow("core", "core alone", ("core",)),
    ImageRow("slimmable", "slimmable", ("core", "super"), {"core": 93.99, "super": 94.72}, "62.7"),
    ImageRow(
        "alternate",
        "ATS",
        ("core", "super"),
        {"core": 93.94, "super": 95.05},
        "31.3",
        against={"core": "slimmable", "super": "slimmable"},
    ),
    ImageRow(
        "alternate_twice",
        "ATS, twice the epochs",
        ("core", "super"),
        against={"core": "slimmable", "super": "slimmable"},
        first_seed_only=True,
    ),
)


@dataclass(frozen=True)
class ImageRecipe:
    """A folder of configuration files, and its data."""

    name: str
    title: str
    configs: Path
    data: str = "runs/cifar10/data"
    prepare: str = "fairseq-ats images cifar-10-binary.tar.gz runs/cifar10/data"

    def config(self, row: str) -> Path:
        return self.configs / f"{row}.yaml"


@dataclass(frozen=True)
class ImageTable:
    """One table: all rows with one recipe."""

    recipe: ImageRecipe
    notes: str
    rows: tuple[ImageRow, ...] = ROWS


TABLES = {
    "3": ImageTable(
        ImageRecipe("cifar10", "ResNet-18 of width 16 (the paper: 64) on CIFAR-10, r = 0.5", ROOT / "configs/cifar10"),
        "What this shows: at the same number of epochs ATS costs half the FLOPs of slimmable training, and what that "
        "costs in accuracy at this size; and what joint training costs against each network alone, which the paper "
        "leaves out. What it does not show: the paper's numbers, which need the width of 64 and some 200 epochs; "
        "networks that are trained to the end, since with so few epochs each has half the updates in ATS; a difference "
        "that is smaller than the deviation over seeds.",
    ),
    "3_full": ImageTable(
        ImageRecipe("cifar10_full", "ResNet-18 on CIFAR-10, r = 0.5, the paper's size", ROOT / "configs/cifar10_full"),
        "The paper says neither learning rate, schedule, batch size, number of epochs nor augmentation.",
    ),
}


class ImageReproduction(Reproduction):
    """One call of the command."""

    def missing(self) -> list[Run]:
        once = {row.name for row in self.table.rows if row.first_seed_only}
        return [run for run in super().missing() if run.row not in once or run.seed == min(self.args.seeds)]

    def _needs(self, run: Run) -> Needs:
        """Return nothing: no row of images needs another."""
        return Needs(self.data, {})

    def print_plan(self) -> None:
        for run in self.missing():
            print(f"# {run}: {run.state()}")
            print(shlex.join(self._command(run)), flush=True)

    def _check_data(self) -> None:
        if not self.data.is_dir():
            raise ValueError(
                f"--data is {shown(self.data)}, which is not a folder; `{self.table.recipe.prepare}` makes it"
            )
        ImageData.read(self.data)

    def _references(self) -> None:
        """Nothing is compared with texts."""

    def _compare(self, references: None) -> None:
        """Differences are those of the accuracies."""

    def _record(self, run: Run, references: None) -> None:
        row = next(row for row in self.table.rows if row.name == run.row)
        record = measured(run, row, self.data, self._hardware(run))
        self.records.write(record)
        self.draw()
        accuracies = ", ".join(f"{name} {scores_of(record, name)['accuracy']:.2f}" for name in row.networks)
        print(f"{NAME}: {run}: accuracy {accuracies}", flush=True)

    def draw(self) -> None:
        self.args.results.mkdir(parents=True, exist_ok=True)
        with written_whole(self.args.results / f"{self.table.recipe.name}.md") as path:
            path.write_text(page(self.args.name, self.table, self.records.read()), encoding="utf-8")


def measured(run: Run, row: ImageRow, data: Path, hardware: str) -> Record:
    """Return the record of a finished run: accuracy of each network's best checkpoint on the test set, and cost.

    Raises:
        ValueError: a checkpoint is missing or damaged, or the log has no numbers.
    """
    log = TrainingLog.read(run.log)
    networks = {network: _network(run, network, data) for network in row.networks}
    cost = Cost(run.folder / best_checkpoint(), log)
    return origin_of(run, log, hardware) | {
        "data": dict(ImageData.read(data).sums),
        "images_per_update": log.sentences_per_update,
        "epochs": log.updates * log.sentences_per_update / PAPER_IMAGES,
        "flops": cost.flops(image_cost),
        "flops_by_paper": cost.flops(paper_cost),
        "networks": networks,
    }


def _network(run: Run, network: str, data: Path) -> dict[str, Any]:
    files = [run.folder / best_checkpoint(network=network), run.folder / best_checkpoint()]
    path = next((file for file in files if file.is_file()), files[-1])
    if not path.is_file():
        raise ValueError(f"{path} is missing; to train again, remove the folder")
    checkpoint = Checkpoint.open(path)
    classifier = Classifier.open(path, network)
    images, labels = ImageData.read(data).load(TEST)
    right = 0
    for start in range(0, len(labels), 500):
        best = classifier.probabilities(images[start : start + 500].copy()).argmax(-1)
        right += int((best == torch.from_numpy(labels[start : start + 500].copy())).sum())
    return {
        "parameters": sum(
            p.numel() for p in load_image_network(checkpoint, checkpoint.level_of(network))[1].parameters()
        ),
        "checkpoint": path.name,
        "updates": checkpoint.updates,
        "tests": {TEST: {"accuracy": 100 * right / len(labels)}},
    }


@dataclass(frozen=True)
class Cost:
    """The cost of a run, from a checkpoint and the log."""

    checkpoint: Path
    log: TrainingLog

    @cached_property
    def _built(self) -> tuple[Any, Any, Any]:
        checkpoint = Checkpoint.open(self.checkpoint)
        task, model = load_image_network(checkpoint)
        recall_(task.cfg, checkpoint.state["task_state"])
        return task, model, Options(task.cfg).scheme.schedule(task.partition.max_level)

    def flops(self, count: Any) -> float:
        """Return the FLOPs of all updates by :func:`image_cost` or :func:`paper_cost`."""
        task, model, schedule = self._built
        costs = {level: count(model, task.data, COUNTED, level) for level in task.partition.levels}
        of_updates = training_flops(costs, schedule, range(self.log.updates))
        return of_updates * self.log.sentences_per_update / COUNTED


def page(name: str, table: ImageTable, runs: Mapping[RunKey, Record]) -> str:
    """Return the page in Markdown."""
    header = ["Method", "Model", "paper: accuracy", "ours", "seeds", "epochs", "TFLOPs an epoch: paper", "by its count"]
    header.append("forward and backward")
    parts = [f"# Table {name}: {table.recipe.title}", _grid(header, _rows(table, runs), 2)]
    parts.append(
        "Accuracy on the 10,000 test images, in per cent, mean (standard deviation, n - 1) over seeds; each network's "
        "best checkpoint by accuracy on held-out training images. The paper's FLOPs are of width 64; its count is an "
        "inference ([images](../../docs/images.md#flops)). Beside it stands PyTorch's count of both passes."
    )
    header = ["Method", "Model", "against", "difference of means", "seed by seed"]
    parts += [
        "## Differences",
        _grid(header, _differences(table, runs), 3),
        table.notes,
        "## Where the numbers come from",
    ]
    used = [record for row in table.rows for record in recorded(row.name, runs)]
    starts = [start for record in used for start in record["starts"]]
    lines = [
        f"- `scripts/reproduce_table.sh {name}`; rows: `configs/{table.recipe.name}/`; runs: `{table.recipe.name}/`",
        f"- data: `{table.recipe.prepare}`, or a copy: the SHA-256 of its test images is in the records",
    ]
    for what, values in (
        ("SHA-256 of the test images", (record["data"]["test.images.npy"] for record in used)),
        ("hardware", (start["hardware"] for start in starts)),
        ("commit", (start["commit"] or "unknown" for start in starts)),
        ("versions", (", ".join(f"{key} {value}" for key, value in record["versions"].items()) for record in used)),
    ):
        lines += [f"- {what}: {value}" for value in dict.fromkeys(values)]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _accuracies(row: str, network: str, runs: Mapping[RunKey, Record]) -> dict[int, float]:
    return {record["seed"]: scores_of(record, network)["accuracy"] for record in recorded(row, runs)}


def _rows(table: ImageTable, runs: Mapping[RunKey, Record]) -> Iterator[list[str]]:
    for row in table.rows:
        records = recorded(row.name, runs)
        for number, network in enumerate(row.networks):
            published = f"{row.published[network]:.2f}" if network in row.published else NONE
            values = list(_accuracies(row.name, network, runs).values())
            cells = [row.label if number == 0 else "", HEADINGS[network], published]
            cells.append(mean_std(values) if values else NOT_RUN)
            whole = [""] * 5
            if number == 0:
                whole = [str(len(records)), NONE, row.published_tflops, NONE, NONE]
            if number == 0 and records:
                epochs = statistics.mean(record["epochs"] for record in records)
                flops = [statistics.mean(r[k] for r in records) / epochs / 1e12 for k in ("flops_by_paper", "flops")]
                whole[1], whole[3:] = f"{epochs:.0f}", [f"{value:.3g}" for value in flops]
            yield cells + whole


def _differences(table: ImageTable, runs: Mapping[RunKey, Record]) -> Iterator[list[str]]:
    """Joint trainings against slimmable training, and against each network alone."""
    labels = {row.name: row.label for row in ROWS}
    alone = {"core": "core", "super": "standard"}
    for row in table.rows:
        if len(row.networks) == 1:
            continue
        for network in row.networks:
            for other in filter(None, (row.against.get(network), alone[network])):
                own, theirs = (_accuracies(name, network, runs) for name in (row.name, other))
                cells = [f"{own[seed] - theirs[seed]:+.2f}" for seed in sorted(own.keys() & theirs.keys())]
                mean = NOT_RUN
                if own and theirs:
                    mean = f"{statistics.mean(own.values()) - statistics.mean(theirs.values()):+.2f}"
                yield [row.label, HEADINGS[network], labels[other], mean, ", ".join(cells) or NONE]


def _grid(header: Sequence[str], rows: Iterator[list[str]], text_columns: int) -> str:
    sides = ["left"] * text_columns + ["right"] * (len(header) - text_columns)
    return tabulate(list(rows), header, tablefmt="github", disable_numparse=True, colalign=sides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a run that was asked for could not be made."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = parsed(parser_of(__doc__, TABLES), given, TABLES)
    silence_libraries()
    if arguments is None and not args.render:
        restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    return ImageReproduction.of(args).complete()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Draw the loss of sparsified models on a test set against the probability to keep a neuron, f_D of MAST.

    python -m scripts.figures.sparsified_loss OUTPUT standard=RUN/train.log "MAST=RUN/train.log" [--draws 8]

Each run has its ``checkpoint_best.pt`` beside its log. Neurons are kept by Bernoulli sketches, the same of every run;
where a run has a shift, x̃ is v + S (x − v). The loss is the cross-entropy in bits a token. Writes OUTPUT.png and the
numbers, OUTPUT.jsonl, and prints Markdown: means over the draws, and their standard error.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from tabulate import tabulate

from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
from fairseq_ats.architectures.transformer_parts import parts_of
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import SCHEME_KEY
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.files import written_whole
from fairseq_ats.inference.evaluation import batches_of
from fairseq_ats.inference.loading import load_network
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.mast import Mast
from scripts.figures.png import new_figure, write_png

KEPT = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


@torch.no_grad()
def losses(checkpoint: Checkpoint, subset: str, draws: int) -> Iterator[tuple[float, list[float]]]:
    """Yield each keep probability and the loss at each draw.

    Raises:
        ValueError: the checkpoint has no levels, or its data are not there.
    """
    model, task = load_network(checkpoint, DataFolder.find(None, checkpoint.options("task")))
    criterion = CrossEntropyCriterion(task, sentence_avg=False)
    batches = list(batches_of(model, task, subset, batch_size=64))
    state = checkpoint.state["task_state"].get(SCHEME_KEY, {}).get("state", {})
    shift = "start" if any(name.startswith("shift:") for name in state) else "zero"
    for keep_prob in KEPT:
        scheme = Mast(keep_prob=keep_prob, shift=shift)
        scheme.max_level = task.partition.max_level
        scheme.attach(parts_of(model), Draws(seed=1))
        scheme.load_state_dict(state)
        found = []
        for point in scheme.validation_points(1 if keep_prob == 1 else draws):
            with point.of(model):
                results = [criterion(model, batch) for batch in batches]
            found.append(sum(float(one[0]) for one in results) / sum(one[1] for one in results) / math.log(2))
        yield keep_prob, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="path of the picture and the numbers, without .png")
    parser.add_argument("logs", nargs="+", metavar="LABEL=LOG", help="the log of a run, beside its checkpoints")
    parser.add_argument("--subset", default="test", help="(default: %(default)s)")
    parser.add_argument("--draws", type=int, default=8, help="(default: %(default)s)")
    args = parser.parse_args()
    silence_libraries()
    figure = new_figure(6, 4)
    axes = figure.subplots()
    rows: list[list[Any]] = []
    with written_whole(f"{args.output}.jsonl") as path, path.open("w", encoding="utf-8") as file:
        for label, log in (argument.split("=", 1) for argument in args.logs):
            checkpoint = Checkpoint.open(Path(log).parent / "checkpoint_best.pt")
            means, cells = [], []
            for keep_prob, found in losses(checkpoint, args.subset, args.draws):
                values = torch.tensor(found)
                means.append(float(values.mean()))
                error = float(values.std() / len(found) ** 0.5) if len(found) > 1 else 0.0
                cells.append(f"{means[-1]:.2f} ± {error:.2f}" if error else f"{means[-1]:.2f}")
                record = {"run": label, "keep_prob": keep_prob, "losses": [float(f"{one:.6g}") for one in found]}
                file.write(json.dumps(record) + "\n")
            axes.plot(KEPT, means, "o-", label=label)
            rows.append([label, *cells])
    axes.set(xlabel="keep probability", ylabel=f"sparsified loss on {args.subset}, bits a token")
    axes.legend()
    write_png(figure, Path(f"{args.output}.png"))
    print(tabulate(rows, ["run", *map(str, KEPT)], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure the cost of ``--criteria-interval``, even on a busy machine.

    python -m scripts.benchmarks.criteria [--tokens 2000] [--rounds 7] [--device cuda]

Train one model with fairseq's own Trainer. Each round runs two updates without the monitor and two updates with it, one
of which is measured. The order changes from round to round. The cost of a measurement is the difference of the two
times divided by the time of one update without the monitor. The table shows the median and the quartiles of that ratio,
and its share of the training time at an interval of 100. In ATS each network makes one of the two updates. On a CPU the
time is the CPU time of this process, which does not grow while other programs run.
"""

from __future__ import annotations

import argparse

from fairseq.trainer import Trainer

from fairseq_ats.cost.synthetic import build, numbered_dictionary, random_batch
from scripts.benchmarks.command_line import conditions, low_rank, parser_of, small_width, start
from scripts.benchmarks.timing import quartiles, rotated, seconds_of

SCHEMES = {"ATS": "--alternate", "standard": ""}
PARTITIONS = {"low rank": low_rank, "small width": small_width}
INTERVAL = 100


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="target tokens of the batch")
    parser.set_defaults(rounds=7)
    args = start(parser)
    print(
        f"{args.arch}, {args.tokens:,} tokens in sentences of {args.length}, dropout 0.3; {conditions(args)}\n\n"
        f"| core | scheme | a measurement, in updates (quartiles) | of the training time at {INTERVAL} (quartiles) |\n"
        "|---|---|---:|---:|"
    )
    for scheme, option in SCHEMES.items():
        for core, partition in PARTITIONS.items():
            low, middle, high = quartiles(costs(f"{partition(args)} {option}", args))
            share = " (".join(f"{100 * v / INTERVAL:.2f}" for v in (middle, low)) + f"-{100 * high / INTERVAL:.2f}) %"
            print(f"| {core} | {scheme} | {middle:.2f} ({low:.2f}-{high:.2f}) | {share} |", flush=True)


def costs(options: str, args: argparse.Namespace) -> list[float]:
    """Return the cost of a measurement in each round, in units of one update."""
    command = (
        f"{options} --arch {args.arch} {args.arch_options} --share-all-embeddings --dropout 0.3 --lr 1e-4 --seed 1 "
    )
    command += "--criteria-interval 2" + (" --cpu" if args.device == "cpu" else "")
    built = build(command.split(), numbered_dictionary(args.vocabulary))
    batch = random_batch(built.task, args.tokens // args.length, args.length)
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)

    def two_updates() -> None:
        for _ in range(2):
            trainer.train_step([batch])

    def seconds_with(interval: int) -> float:
        built.task.criteria.interval = interval
        seconds = seconds_of(two_updates, args.device)
        return seconds.cpu if args.device == "cpu" else seconds.wall

    result = []
    for number in range(args.warm_up + args.rounds):
        seconds = {interval: seconds_with(interval) for interval in rotated((0, 2), number)}
        result.append((seconds[2] - seconds[0]) / (seconds[0] / 2))
    return result[args.warm_up :]


if __name__ == "__main__":
    main()

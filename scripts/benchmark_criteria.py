#!/usr/bin/env python3
"""What ``--criteria-interval`` costs, on a machine that may be busy.

    python scripts/benchmark_criteria.py [--tokens 2000] [--rounds 7] [--device cuda]

One model, through fairseq's own Trainer. In each round two updates run without the monitor and two with it, one of them
measured, in an order that changes from round to round; the difference, divided by the time of an update without it, is
what a measurement costs. The table has the median and the quartiles of that ratio, and its share of the training
time at an interval of 100. In ATS the two updates are one of each network. On a CPU the time is the process's own,
which does not grow while other programs run.
"""

from __future__ import annotations

import argparse
import time

import torch
from cpu_environment import restart_in_cpu_environment
from fairseq.trainer import Trainer
from measuring import hardware, quartiles, rotated, seconds_of

from fairseq_ats.synthetic import build, numbered_dictionary, random_batch

SCHEMES = {"ATS": "--alternate", "standard": ""}
MODULES = {"low rank": "PartitionedRankLinear", "small width": "PartitionedLinear"}
INTERVAL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="transformer_iwslt_de_en", help="a stock fairseq arch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=2000, help="target tokens of the batch")
    parser.add_argument("--length", type=int, default=25, help="tokens of each sentence, both sides")
    parser.add_argument("--vocabulary", type=int, default=10000)
    parser.add_argument("--ratio", type=float, default=0.03125, help="--small-ratio")
    parser.add_argument("--rounds", type=int, default=7, help="after one that is not counted")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    print(
        f"{args.arch}, {args.tokens:,} tokens in sentences of {args.length}, vocabulary {args.vocabulary:,}, r = "
        f"{args.ratio}, dropout 0.3; {args.rounds} rounds; {hardware(args.device, args.threads)}\n\n"
        f"| core | scheme | a measurement, in updates (quartiles) | of the training time at {INTERVAL} (quartiles) |\n"
        "|---|---|---:|---:|"
    )
    for scheme, option in SCHEMES.items():
        for core, module in MODULES.items():
            low, middle, high = quartiles(costs(f"--partitioned-linear-module-name {module} {option}", args))
            share = " (".join(f"{100 * v / INTERVAL:.2f}" for v in (middle, low)) + f"-{100 * high / INTERVAL:.2f}) %"
            print(f"| {core} | {scheme} | {middle:.2f} ({low:.2f}-{high:.2f}) | {share} |", flush=True)


def costs(options: str, args: argparse.Namespace) -> list[float]:
    """Of a measurement, in updates, round by round."""
    command = f"--optimizer adam_for_partitioned_model --task translation_with_partitioned_model {options} "
    command += f"--arch {args.arch} --share-all-embeddings --dropout 0.3 --small-ratio {args.ratio} --lr 1e-4 --seed 1 "
    command += "--criteria-interval 2" + (" --cpu" if args.device == "cpu" else "")
    built = build(command.split(), numbered_dictionary(args.vocabulary))
    batch = random_batch(built.task, args.tokens // args.length, args.length)
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)

    def two_updates() -> None:
        for _ in range(2):
            trainer.train_step([batch])

    def seconds_with(interval: int) -> float:
        built.task.criteria.interval = interval
        if args.device != "cpu":
            return seconds_of(two_updates, args.device)
        begin = time.process_time()
        two_updates()
        return time.process_time() - begin

    result = []
    for number in range(args.rounds + 1):
        seconds = {interval: seconds_with(interval) for interval in rotated((0, 2), number)}
        result.append((seconds[2] - seconds[0]) / (seconds[0] / 2))
    return result[1:]


if __name__ == "__main__":
    main()

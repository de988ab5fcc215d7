#!/usr/bin/env python3
"""Measure how much faster two workers are than one on a CPU, and how much each of them sends.

    python -m scripts.benchmarks.workers configs/multi30k_low_rank.yaml runs/multi30k/data
    python -m scripts.benchmarks.workers configs/multi30k_kinds/{standard,ist_2}.yaml runs/multi30k_lowercase/data \\
        --max-tokens 1250 --ways 2x1

Three ways to make the same updates take turns: one worker with one thread (1x1), one worker with two threads (1x2), and
two workers with one thread each (2x1). A single worker takes two batches for each update; each of two workers takes one
batch. fairseq logs the words per second of all workers together. The first log interval is not counted. What a worker
sends is counted as if collectives are rings: as the training logs it (--scheme ist), or one sum of all gradients.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.hardware import hardware
from fairseq_ats.schemes.exchange import sent_in_a_sum
from scripts.benchmarks.timing import ratio_column, rotated

FAIRSEQ_ATS = [sys.executable, "-m", "fairseq_ats.cli"]
LOG_INTERVAL = 10
BYTES = 4  # of a float32


class Way(NamedTuple):
    """Number of workers, threads of each worker, batches of each worker in an update."""

    workers: int
    threads: int
    batches: int

    def __str__(self) -> str:
        text = f"{self.workers} worker{'s' * (self.workers > 1)}, {self.threads} thread{'s' * (self.threads > 1)}"
        return text + " each" * (self.workers > 1)


WAYS = {"1x1": Way(1, 1, 2), "1x2": Way(1, 2, 2), "2x1": Way(2, 1, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="configuration files, of configs/")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of binarised data")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="workers x threads (default: all)")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="of a batch (default: the configuration's)")
    parser.add_argument("--updates", type=positive, default=40, help="of each way and round (default: 40)")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each way (default: 5)")
    args = parser.parse_args()
    if args.updates < 2 * LOG_INTERVAL:
        parser.error(f"argument --updates: {args.updates} is not allowed; allowed: {2 * LOG_INTERVAL} or more")
    options = ["--max-tokens", str(args.max_tokens)] if args.max_tokens else []
    contestants = list(product(args.configs, (WAYS[name] for name in args.ways)))
    speeds: dict[tuple[Path, Way], list[float]] = {one: [] for one in contestants}
    sent = {}
    for number in range(args.rounds):
        for config, way in rotated(contestants, number):
            speed, sent[config, way] = trained(config, args.data, way, args.updates, options)
            speeds[config, way].append(speed)
            print(f"round {number + 1}: {config.stem}, {way}: {speed:,.0f} words/s", file=sys.stderr, flush=True)
    print(f"{hardware('cpu', 1)}; {args.rounds} rounds of {args.updates} updates\n")
    print("| configuration | way | words/s | speed (quartiles) | MB sent by a worker in an update |")
    print("|---|---|---:|---:|---:|")
    for (config, way), values in speeds.items():
        speed = ratio_column(values, speeds[contestants[0]])
        print(f"| {config.stem} | {way} | {statistics.median(values):,.0f} | {speed} | {sent[config, way]:.2f} |")


def trained(config: Path, data: Path, way: Way, updates: int, options: list[str]) -> tuple[float, float]:
    """Train once; return words per second, median of all log intervals but the first, and MB sent in an update."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*FAIRSEQ_ATS, "launch", "--workers", str(way.workers), "--threads", str(way.threads)]
        command += [*FAIRSEQ_ATS, "train", str(config), str(data), "--save-dir", folder]
        command += ["--threads", str(way.threads), "--update-freq", str(way.batches), *options]
        command += ["--max-update", str(updates), "--no-save", "--disable-validation", "--log-format", "json"]
        command += ["--log-interval", str(LOG_INTERVAL)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"workers: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    lines = [line.split("| train_inner | ")[1] for line in done.stdout.splitlines() if "| train_inner | " in line]
    logged = [json.loads(line) for line in lines]
    of_all = sent_in_a_sum(BYTES * trained_parameters(done.stdout), way.workers) / 1e6
    sent = statistics.mean(float(line.get("sent_mb", of_all)) for line in logged)
    return statistics.median(float(line["wps"]) for line in logged[1:]), sent


def trained_parameters(log: str) -> int:
    """Return the number of parameters that move, by fairseq's log (fairseq_cli/train.py:103)."""
    return int(re.findall(r"num. shared model params: .*num. trained: ([\d,]+)", log)[0].replace(",", ""))


if __name__ == "__main__":
    main()

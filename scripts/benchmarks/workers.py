#!/usr/bin/env python3
"""Measure how much faster two workers are than one on a CPU.

    python -m scripts.benchmarks.workers configs/multi30k_low_rank.yaml runs/multi30k/data

Three ways to make the same updates take turns: one worker with one thread, one worker with two threads, and two workers
with one thread each. A single worker takes two batches for each update; each of two workers takes one batch. fairseq
logs the words per second of all workers together. The first log interval is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.hardware import hardware
from scripts.benchmarks.timing import ratio_column, rotated

FAIRSEQ_ATS = [sys.executable, "-m", "fairseq_ats.cli"]
LOG_INTERVAL = 10
# Name → (number of workers, threads of each worker, batches of each worker in an update).
WAYS = {
    "1 worker, 1 thread": (1, 1, 2),
    "1 worker, 2 threads": (1, 2, 2),
    "2 workers, 1 thread each": (2, 1, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", type=Path, help="configuration file, one of configs/")
    parser.add_argument("data", type=Path, help="folder of binarised data")
    parser.add_argument("--updates", type=positive, default=40, help="of each way and round (default: 40)")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each way (default: 5)")
    args = parser.parse_args()
    if args.updates < 2 * LOG_INTERVAL:
        parser.error(f"argument --updates: {args.updates} is not allowed; allowed: {2 * LOG_INTERVAL} or more")
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(args.rounds):
        for name in rotated(list(WAYS), number):
            speeds[name].append(words_per_second(args, *WAYS[name]))
            print(f"round {number + 1}: {name}: {speeds[name][-1]:,.0f} words/s", file=sys.stderr, flush=True)
    print(f"{hardware('cpu', 1)}; {args.config.name}, {args.rounds} rounds of {args.updates} updates\n")
    print("| way | words/s | speed (quartiles) |\n|---|---:|---:|")
    first = next(iter(WAYS))
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):,.0f} | {ratio_column(values, speeds[first])} |")


def words_per_second(args: argparse.Namespace, workers: int, threads: int, batches: int) -> float:
    """Train once and return the median of the words per second in its log intervals, without the first interval."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*FAIRSEQ_ATS, "launch", "--workers", str(workers), "--threads", str(threads)]
        command += [*FAIRSEQ_ATS, "train", str(args.config)]
        command += [str(args.data), "--save-dir", folder, "--threads", str(threads), "--update-freq", str(batches)]
        command += ["--max-update", str(args.updates), "--no-save", "--disable-validation", "--log-format", "json"]
        command += ["--log-interval", str(LOG_INTERVAL)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"workers: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    logged = [line.split("| train_inner | ")[1] for line in done.stdout.splitlines() if "| train_inner | " in line]
    return statistics.median(float(json.loads(line)["wps"]) for line in logged[1:])


if __name__ == "__main__":
    main()

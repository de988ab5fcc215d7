#!/usr/bin/env python3
"""What each way to deploy a run's networks costs: words/s, latency, size, memory, BLEU.

    python scripts/benchmark_deployment.py DATA RUN [--sentences 1000] [--rounds 3]

RUN holds a super-network and a small-width core. Both are converted by ``fairseq-ats-convert`` into a temporary folder.
Every contestant is a process of its own that translates the raw test set, text in and text out, through
``fairseq_ats.translate``; the processes take turns, and a round's times are divided by stock fairseq's time of that
round. fairseq runs with one thread and with one a core; CTranslate2 with one thread a core, and with one worker a core,
which translate batches side by side as fairseq cannot. The table has the faster setting of each. Latency is that of one
sentence at a time. Memory is what the process grew by since before its model was read; sizes are without optimizer
state.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import ctranslate2  # noqa: F401  here, so that it does not count as memory of the models that it runs
import sacrebleu
import torch
from cpu_environment import restart_in_cpu_environment
from evaluate import raw_references
from measuring import hardware, quartiles, rotated

from fairseq_ats.checkpoints import read_header
from fairseq_ats.convert.conversion import convert, size_on_disk
from fairseq_ats.convert.core_checkpoint import CoreCheckpoint
from fairseq_ats.convert.ctranslate2_model import CTranslate2Model
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.stock_checkpoint import StockCheckpoint
from fairseq_ats.translate import Translator

BATCH_SIZE = 32
BEAM = 5
STOCK = "stock fairseq, super"

FORMS: dict[str, OutputFormat | None] = {
    STOCK: StockCheckpoint(),
    "partitioned, super": None,  # the run's own checkpoint
    "partitioned, core": CoreCheckpoint(),
} | {
    f"CTranslate2 {quantization}, {level}": CTranslate2Model(quantization=quantization)
    for level in ("super", "core")
    for quantization in ("float32", "int8")
}


@dataclass(frozen=True)
class Contestant:
    """One network in one form; ``settings`` are (threads, workers) to try."""

    name: str
    path: Path
    level: str | None
    data: Path | None
    settings: tuple[tuple[int, int], ...]


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(1)
    source, references = (raw_references(args.data, side)[: args.sentences] for side in (args.source, args.target))
    with tempfile.TemporaryDirectory() as folder:
        contestants = converted(args, Path(folder))
        sizes = {c.name: size_on_disk(c.path) for c in contestants}
        with workers_of(contestants) as workers:
            seconds, translations = translate_in_turns(workers, source, args.rounds, BATCH_SIZE)
            latencies, _ = translate_in_turns(workers, source[: args.latency_sentences], args.rounds, 1)
            memory = {key: ask(worker, "memory") for key, worker in workers.items()}
    print(
        f"{args.run.name}: {len(source):,} sentences, batch {BATCH_SIZE}, beam {BEAM}; {args.rounds} rounds; "
        f"{hardware('cpu', 1).replace('1 thread(s)', f'{args.cores} cores')}\n"
    )
    print(report(contestants, sizes, seconds, latencies, memory, translations, references, args))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of binarised data, with the raw test set in it")
    parser.add_argument("run", type=Path, help="folder of a run with a small-width core")
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--latency-sentences", type=int, default=50, help="for the latency at batch 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores to use at most")
    args = parser.parse_args()
    args.forms = list(dict.fromkeys([STOCK, *args.forms]))
    for name in ("checkpoint_best.pt", "checkpoint_best_core.pt"):
        if not (args.run / name).is_file():
            parser.error(f"argument run: {args.run} has no {name}")
    for language in (args.source, args.target):
        if not (args.data / f"test.{language}").is_file():
            parser.error(f"argument data: {args.data} has no raw test.{language} (scripts/binarise.py puts it there)")
    return args


def converted(args: argparse.Namespace, folder: Path) -> list[Contestant]:
    """Every form of both networks that is asked for."""
    best = {"super": args.run / "checkpoint_best.pt", "core": args.run / "checkpoint_best_core.pt"}
    of_fairseq = tuple(dict.fromkeys([(1, 1), (args.cores, 1)]))
    of_ctranslate2 = tuple(dict.fromkeys([(args.cores, 1), (1, args.cores)]))
    contestants = []
    for name in args.forms:
        path = folder / name
        form, level = name.rsplit(", ", 1)
        if name == "partitioned, super":
            both = read_header(str(best[level]))
            torch.save({key: value for key, value in both.items() if key != "last_optimizer_state"}, path)
        else:
            convert(best[level], level, FORMS[name], path, data=args.data)
        if form.startswith("CTranslate2"):
            contestants.append(Contestant(name, path, None, None, of_ctranslate2))
        else:
            contestants.append(Contestant(name, path, None if name == STOCK else level, args.data, of_fairseq))
    return contestants


Key = tuple[str, int, int]


@contextmanager
def workers_of(contestants: list[Contestant]) -> Iterator[dict[Key, Connection]]:
    """A process for each contestant and setting, by name, threads and workers."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Key, Connection] = {}
    processes = {}
    try:
        for contestant in contestants:
            for threads, count in contestant.settings:
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, contestant, threads, count), daemon=True)
                process.start()
                workers[contestant.name, threads, count] = ours
                processes[contestant.name, threads, count] = process
        for worker in workers.values():
            ask(worker, "load")
        yield workers
    finally:
        for key, process in processes.items():
            if process.is_alive():
                workers[key].send("stop")
            process.join()


def serve(connection: Connection, contestant: Contestant, threads: int, workers: int) -> None:
    """The worker: answers ``ask``."""
    logging.disable(logging.WARNING)
    before = resident_bytes()
    translator = None
    while (request := connection.recv()) != "stop":
        if request == "load":
            translator = Translator(
                contestant.path,
                contestant.level,
                data=contestant.data,
                beam=BEAM,
                batch_size=BATCH_SIZE,
                threads=threads,
                workers=workers,
                device="cpu",
            )
            connection.send(True)
        elif request == "memory":
            connection.send(resident_bytes() - before)
        else:
            batch_size, lines = request
            start = time.perf_counter()
            translated = [translator(line) for line in lines] if batch_size == 1 else translator(lines)
            connection.send((time.perf_counter() - start, translated))


def resident_bytes() -> int:
    """Memory of this process, which after work is near its peak: nothing that was freed is given back meanwhile."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ask(worker: Connection, request: object) -> object:
    worker.send(request)
    return worker.recv()


def translate_in_turns(
    workers: dict[Key, Connection], lines: list[str], rounds: int, batch_size: int
) -> tuple[dict[Key, list[float]], dict[Key, list[str]]]:
    """Seconds of each round, and the translations; one short round first that does not count."""
    seconds: dict[Key, list[float]] = {key: [] for key in workers}
    translations: dict[Key, list[str]] = {}
    for worker in workers.values():
        ask(worker, (batch_size, lines[: 2 * batch_size]))
    for number in range(rounds):
        for key in rotated(list(workers), number):
            duration, translations[key] = ask(workers[key], (batch_size, lines))
            seconds[key].append(duration)
        print(f"batch {batch_size}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seconds, translations


def report(
    contestants: list[Contestant],
    sizes: dict[str, int],
    seconds: dict[Key, list[float]],
    latencies: dict[Key, list[float]],
    memory: dict[Key, int],
    translations: dict[Key, list[str]],
    references: list[str],
    args: argparse.Namespace,
) -> str:
    """Markdown; every contestant with its faster setting, for throughput and for latency."""

    def fastest(times: dict[Key, list[float]], name: str) -> Key:
        return min((key for key in times if key[0] == name), key=lambda key: statistics.median(times[key]))

    stock = fastest(seconds, STOCK)
    metric = sacrebleu.BLEU()
    lines = [
        "| deployed as | BLEU | same as stock | words/s | speed (quartiles) | threads × workers | latency ms "
        "| size MB | memory MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for contestant in contestants:
        key, quick = fastest(seconds, contestant.name), fastest(latencies, contestant.name)
        words = sum(len(line.split()) for line in translations[key])
        ratios = [s / own for s, own in zip(seconds[stock], seconds[key], strict=True)]
        low, middle, high = quartiles(ratios)
        same = sum(a == b for a, b in zip(translations[key], translations[stock], strict=True))
        bleu = metric.corpus_score(translations[key], [references]).score
        latency = statistics.median(latencies[quick]) / min(args.latency_sentences, len(references)) * 1e3
        lines.append(
            f"| {contestant.name} | {bleu:.2f} | {same} | {words / statistics.median(seconds[key]):,.0f} "
            f"| {middle:.2f} ({low:.2f}-{high:.2f}) | {key[1]} × {key[2]} | {latency:.1f} "
            f"| {sizes[contestant.name] / 1e6:.1f} | {memory[key] / 1e6:.0f} |"
        )
    return "\n".join([*lines, "", f"sacreBLEU {metric.get_signature()}"])


if __name__ == "__main__":
    main()

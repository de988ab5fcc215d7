#!/usr/bin/env python3
"""Measure each way to deploy the networks of a run: words/s, CPU time, latency, size, memory, BLEU.

    python -m scripts.benchmarks.deployment DATA RUN [--cores 1] [--sentences 1000] [--rounds 5]

RUN holds a super-network and a core. The benchmark converts both into a temporary folder, as ``fairseq-ats convert``
does. In CTranslate2 a low-rank core has dense layers, since no release holds thin ones. Every contestant translates the
raw test set, from text to text, with ``fairseq_ats.translate``. All contestants use the same ``--cores`` CPU cores. A
contestant has one process for each CPU core. The process has one thread, is bound to its CPU core, and translates its
share of the sentences.

The contestants take turns. A speed is stock fairseq's time divided by the contestant's time in the same round, with the
same batch size and the same beam. CPU time is the time of all threads of the processes; on a busy machine it is more
reliable than wall time. Latency is the time for one sentence at a time, on one CPU core. Memory is the growth of a
process since before it read its model. Sizes do not include optimizer state.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import ctranslate2  # noqa: F401  here, so that it does not count as memory of the models that it runs
import sacrebleu
import torch

from fairseq_ats.checkpoints.names import best_checkpoint
from fairseq_ats.checkpoints.reading import read_header
from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.environment import restart_in_cpu_environment
from fairseq_ats.cli.hardware import hardware
from fairseq_ats.convert.conversion import convert, size_on_disk
from fairseq_ats.convert.formats.core import CoreCheckpoint
from fairseq_ats.convert.formats.ctranslate2 import CTranslate2Model
from fairseq_ats.convert.formats.fairseq import StockCheckpoint
from fairseq_ats.convert.formats.onnx import OnnxModel
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork, read_source
from fairseq_ats.convert.verification import VerificationError
from fairseq_ats.data.lines import raw_lines, raw_references
from fairseq_ats.translate import Translator
from scripts.benchmarks.timing import ratio_column, rotated

BATCH_SIZE = 32
BEAM = 5
GREEDY = 1
STOCK = "stock fairseq, super"
SUPER_INT8 = "CTranslate2 int8, super"

FORMS: dict[str, OutputFormat | None] = {
    STOCK: StockCheckpoint(),
    "partitioned, super": None,  # the checkpoint of the run itself
    "partitioned, core": CoreCheckpoint(),
}
for _level in ("super", "core"):
    FORMS |= {
        f"CTranslate2 float32, {_level}": CTranslate2Model(),
        f"CTranslate2 int8, {_level}": CTranslate2Model(quantization="int8"),
        f"CTranslate2 int8 shortlist, {_level}": CTranslate2Model(quantization="int8", shortlist="train"),
        f"ONNX float32, {_level}": OnnxModel(),
        f"ONNX int8, {_level}": OnnxModel(quantization="int8"),
    }


@dataclass(frozen=True)
class Contestant:
    """One network in one form of deployment."""

    name: str
    path: Path
    level: str | None
    data: Path | None
    longest: int | None = None  # pieces in a translation; None: the default


@dataclass(frozen=True)
class Turn:
    """The times of a contestant to translate the lines once, in seconds."""

    wall: float
    cpu: float


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(1)
    try:
        source = raw_lines(args.data, args.source)[: args.sentences]
        references = raw_references(args.data, args.target)[: args.sentences]
    except ValueError as error:
        sys.exit(f"benchmark_deployment: {error}")
    with tempfile.TemporaryDirectory() as folder:
        contestants = converted(args, Path(folder))
        sizes = {c.name: size_on_disk(c.path) for c in contestants}
        with workers_of(contestants, args.cores) as workers:
            measured = measure(workers, source, args.latency_sentences, args.rounds)
    search = f"{len(source):,} sentences, batch {BATCH_SIZE}, beam {BEAM}; {args.rounds} rounds"
    print(f"{args.run.name}: {search}; {machine(args.cores)}\n")
    print(report(measured, sizes, references))
    print(f"\n{further_report(measured, references)}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of binarised data, with the raw test set in it")
    parser.add_argument("run", type=Path, help="folder of a run with a core")
    parser.add_argument("--source", default="en")
    parser.add_argument("--target", default="de")
    parser.add_argument("--sentences", type=positive, default=1000)
    parser.add_argument("--latency-sentences", type=positive, default=50, help="for the latency at batch 1")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--cores", type=positive, default=1, help="CPU cores that every contestant has (default: 1)")
    parser.add_argument("--checkpoint-suffix", default="", metavar="SUFFIX", help="--checkpoint-suffix of the training")
    args = parser.parse_args()
    args.forms = list(dict.fromkeys([STOCK, *args.forms]))
    there = len(os.sched_getaffinity(0))
    if args.cores > there:
        parser.error(
            f"argument --cores: {args.cores} is not allowed; allowed: at most {there}, the cores that are here"
        )
    for path in best_of(args).values():
        if not path.is_file():
            parser.error(f"argument run: {args.run} has no {path.name}")
    return args


def best_of(args: argparse.Namespace) -> dict[str, Path]:
    """Return the best checkpoint of each network."""
    suffix = args.checkpoint_suffix
    return {"super": args.run / best_checkpoint(suffix), "core": args.run / best_checkpoint(suffix, "core")}


def converted(args: argparse.Namespace, folder: Path) -> list[Contestant]:
    """Write the forms that ``--forms`` names to ``folder`` and return one contestant for each form."""
    best = best_of(args)
    sources = {level: read_source(path, level, args.data) for level, path in best.items()}
    contestants = []
    for name in args.forms:
        path = folder / name
        level = name.rsplit(", ", 1)[1]
        if name == "partitioned, super":
            both = read_header(str(best[level]))
            torch.save({key: value for key, value in both.items() if key != "last_optimizer_state"}, path)
        else:
            try:
                output_format = FORMS[name]
                assert output_format is not None
                convert(best[level], level, dense_where_needed(output_format, sources[level]), path, data=args.data)
            except (ValueError, VerificationError) as error:
                sys.exit(f"deployment: {name}: {error}; --forms chooses others")
        if path.is_dir():
            contestants.append(Contestant(name, path, None, None))
        else:
            contestants.append(Contestant(name, path, None if name == STOCK else level, args.data))
    return contestants


def dense_where_needed(output_format: OutputFormat, source: SourceNetwork) -> OutputFormat:
    """Return the format, with dense layers if it is CTranslate2's and the network is a low-rank core."""
    if isinstance(output_format, CTranslate2Model) and source.is_low_rank:
        return dataclasses.replace(output_format, dense=True)
    return output_format


Workers = dict[str, list[Connection]]


@contextmanager
def workers_of(contestants: list[Contestant], cores: int) -> Iterator[Workers]:
    """Start the processes of each contestant, one for each CPU core, and yield their connections by contestant."""
    context = multiprocessing.get_context("spawn")
    workers: Workers = {contestant.name: [] for contestant in contestants}
    processes = []
    try:
        for contestant in contestants:
            for core in sorted(os.sched_getaffinity(0))[:cores]:
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, contestant, core), daemon=True)
                process.start()
                workers[contestant.name].append(ours)
                processes.append((process, ours))
        for _, worker in processes:
            ask(worker, "load")
        yield workers
    finally:
        for process, worker in processes:
            if process.is_alive():
                worker.send("stop")
            process.join()


def serve(connection: Connection, contestant: Contestant, core: int) -> None:
    """Answer the requests that :func:`ask` and :func:`translate` send, until the request "stop"."""
    os.sched_setaffinity(0, {core})
    logging.disable(logging.WARNING)
    before = resident_bytes()

    @cache
    def translator_with(beam: int) -> Translator:
        return Translator(
            contestant.path,
            contestant.level,
            data=contestant.data,
            beam=beam,
            max_len_b=contestant.longest,
            batch_size=BATCH_SIZE,
            threads=1,
            device="cpu",
        )

    while (request := connection.recv()) != "stop":
        if request == "load":
            translator_with(BEAM)
            connection.send(True)
        elif request == "memory":
            connection.send(resident_bytes() - before)
        else:
            batch_size, lines, beam = request
            translator = translator_with(beam)
            start = time.process_time()
            translated = [translator(line) for line in lines] if batch_size == 1 else translator(lines)
            connection.send((time.process_time() - start, translated))


def resident_bytes() -> int:
    """Return the resident memory of this process.

    After work it is near its peak, because freed memory has not yet gone back to the system.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ask(worker: Connection, request: object) -> object:
    worker.send(request)
    return worker.recv()


@dataclass(frozen=True)
class Measured:
    """Turns and translations of each contestant: in batches, one sentence at a time, and in batches greedily.

    Args:
        latency: the number of sentences that were translated one at a time.
        memory: the bytes of each contestant's model.
    """

    turns: dict[str, list[Turn]]
    translations: dict[str, list[str]]
    one_by_one: dict[str, list[Turn]]
    latency: int
    greedy: dict[str, list[Turn]]
    greedy_translations: dict[str, list[str]]
    memory: dict[str, int]


def measure(workers: Workers, source: list[str], latency_sentences: int, rounds: int) -> Measured:
    """Translate with every contestant in every way."""
    turns, translations = translate_in_turns(workers, source, rounds, BATCH_SIZE)
    first = {name: connections[:1] for name, connections in workers.items()}
    short = source[:latency_sentences]
    one_by_one, _ = translate_in_turns(first, short, rounds, 1)
    memory = {name: int(str(ask(worker, "memory"))) for name, (worker,) in first.items()}
    greedy = translate_in_turns(workers, source, rounds, BATCH_SIZE, GREEDY)
    return Measured(turns, translations, one_by_one, len(short), *greedy, memory)


def machine(cores: int) -> str:
    """Return what the measurement ran on, as text."""
    return hardware("cpu", 1).replace("1 thread(s)", f"{cores} core(s) for each")


def translate_in_turns(
    workers: Workers, lines: list[str], rounds: int, batch_size: int, beam: int = BEAM
) -> tuple[dict[str, list[Turn]], dict[str, list[str]]]:
    """Return the turns and the translations of each contestant, after one short round that does not count."""
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    translations: dict[str, list[str]] = {}
    for connections in workers.values():
        translate(connections, lines[: 2 * batch_size * len(connections)], batch_size, beam)
    for number in range(rounds):
        for name in rotated(list(workers), number):
            turn, translations[name] = translate(workers[name], lines, batch_size, beam)
            turns[name].append(turn)
        print(f"batch {batch_size}, beam {beam}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return turns, translations


def translate(
    connections: list[Connection], lines: list[str], batch_size: int, beam: int = BEAM
) -> tuple[Turn, list[str]]:
    """Split the lines among the processes of a contestant. Return the times and the translations in order."""
    count = len(connections)
    start = time.perf_counter()
    for number, connection in enumerate(connections):
        connection.send((batch_size, lines[number::count], beam))
    answers = [connection.recv() for connection in connections]
    wall = time.perf_counter() - start
    translations = [""] * len(lines)
    for number, (_, translated) in enumerate(answers):
        translations[number::count] = translated
    return Turn(wall, sum(cpu for cpu, _ in answers)), translations


def report(measured: Measured, sizes: dict[str, int], references: list[str]) -> str:
    """Return the results as Markdown. A speed is stock fairseq's time / the contestant's time in the same round."""
    metric = sacrebleu.BLEU()
    lines = [
        "| deployed as | BLEU | same as stock | words/s | speed (quartiles) | by CPU time (quartiles) | latency ms "
        "| size MB | memory MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    turns, translations = measured.turns, measured.translations
    for name in turns:
        words = sum(len(line.split()) for line in translations[name])
        wall = statistics.median(turn.wall for turn in turns[name])
        speed = ratio_column([t.wall for t in turns[STOCK]], [t.wall for t in turns[name]])
        same = sum(a == b for a, b in zip(translations[name], translations[STOCK], strict=True))
        bleu = metric.corpus_score(translations[name], [references]).score
        latency = statistics.median(turn.wall for turn in measured.one_by_one[name]) / measured.latency
        lines.append(
            f"| {name} | {bleu:.2f} | {same} | {words / wall:,.0f} | {speed} | {faster(turns, name, STOCK)} "
            f"| {latency * 1e3:.1f} | {sizes[name] / 1e6:.1f} | {measured.memory[name] / 1e6:.0f} |"
        )
    return "\n".join([*lines, "", f"sacreBLEU {metric.get_signature()}"])


def further_report(measured: Measured, references: list[str] | None) -> str:
    """Return the speeds by CPU time in each way of decoding as Markdown: over stock, and over the super-network's int8.

    Args:
        references: None leaves the quality of the greedy translations out.
    """
    other = SUPER_INT8 if SUPER_INT8 in measured.turns else STOCK
    lines = [
        f"| deployed as | batch {BATCH_SIZE}, beam {BEAM}: / {other} | batch 1, beam {BEAM}: / {STOCK} | / {other} "
        f"| batch {BATCH_SIZE}, greedy: / {STOCK} | / {other} | chrF | greedy BLEU |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in measured.turns:
        cells = [name, faster(measured.turns, name, other)]
        for turns in (measured.one_by_one, measured.greedy):
            cells += [faster(turns, name, STOCK), faster(turns, name, other)]
        if references is not None:
            cells.append(f"{sacrebleu.CHRF().corpus_score(measured.translations[name], [references]).score:.2f}")
            greedy = measured.greedy_translations[name]
            cells.append(f"{sacrebleu.BLEU().corpus_score(greedy, [references]).score:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    width = lines[-1].count("|")
    head = ["|".join(line.split("|")[:width]) + "|" for line in lines[:2]]
    return "\n".join(["Speeds by CPU time, in the same way on both sides (quartiles):", "", *head, *lines[2:]])


def faster(turns: dict[str, list[Turn]], name: str, reference: str) -> str:
    """Return the CPU time of ``reference`` over that of ``name`` in the same round, as text."""
    return ratio_column([turn.cpu for turn in turns[reference]], [turn.cpu for turn in turns[name]])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure the time of beam search with each network, side by side with stock fairseq.

    python -m scripts.benchmarks.decoding [--device cuda] [--beams 1 5] [--batch-sizes 1 32] [--rounds 5]

All models run in one process. They take turns to decode the same sentences with fairseq's own generator. The weights
and the tokens of the batches are random. Every output has exactly ``--length`` tokens, so that all models do the same
work. The times of a round are divided by stock fairseq's time in that round.
"""

from __future__ import annotations

import argparse
from typing import Any

from fairseq import utils
from fairseq.data import Dictionary
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cost.synthetic import build, numbered_dictionary, random_batch
from scripts.benchmarks.command_line import STOCK, conditions, low_rank, parser_of, small_width, start
from scripts.benchmarks.timing import Seconds, peak_of_allocations, quartiles, ratio_column, rotated, seconds_of


def main() -> None:
    args = parse_args()
    dictionary = numbered_dictionary(args.vocabulary)
    contestants = contestants_of(args, dictionary)
    print(f"{args.arch} {args.arch_options}, {args.length} tokens in and out, {conditions(args)}\n")
    header = "| batch | beam | model | median s | tokens/s | time / stock (quartiles) | CPU time / stock "
    print(f"{header}| FLOPs / stock | peak MB |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for batch_size in args.batch_sizes:
        for beam in args.beams:
            print(rows(contestants, batch_size, beam, args), flush=True)


def parse_args() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--beams", type=positive, nargs="+", default=[1, 5])
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[1, 32], help="sentences")
    return start(parser)


class Contestant:
    """One model, prepared for decoding as ``fairseq-generate`` prepares it."""

    def __init__(self, name: str, options: str, args: argparse.Namespace, dictionary: Dictionary) -> None:
        self.name = name
        self.device = args.device
        command = f"{options} --arch {args.arch} {args.arch_options} --share-all-embeddings"
        built = build(command.split(), dictionary)
        self.task = built.task
        self.model = built.model.eval().to(args.device)
        self.model.prepare_for_inference_(built.cfg)

    def decode(self, batch: dict[str, Any], beam: int, length: int) -> None:
        options = argparse.Namespace(beam=beam, max_len_a=0, max_len_b=length, min_len=length)
        generator = self.task.build_generator([self.model], options)
        hypotheses = self.task.inference_step(generator, [self.model], batch)
        assert all(len(beams[0]["tokens"]) == length + 1 for beams in hypotheses)

    def seconds(self, batch: dict[str, Any], beam: int, length: int) -> Seconds:
        return seconds_of(lambda: self.decode(batch, beam, length), self.device)


def contestants_of(args: argparse.Namespace, dictionary: Dictionary) -> list[Contestant]:
    rank, width = low_rank(args), small_width(args)
    rows = [
        (STOCK, "--task translation --optimizer adam"),
        ("low rank: super", rank),
        ("low rank: core", f"{rank} --max-level 1"),
        ("small width: super", width),
        ("small width: core", f"{width} --max-level 1"),
    ]
    return [Contestant(*row, args, dictionary) for row in rows]


def rows(contestants: list[Contestant], batch_size: int, beam: int, args: argparse.Namespace) -> str:
    """Return the table's rows for one batch size and beam."""
    batch = random_batch(contestants[0].task, batch_size, args.length)
    if args.device == "cuda":
        batch = utils.move_to_cuda(batch)
    flops, peaks = {}, {}
    for c in contestants:
        # The counter has no formula for the fused attention kernel of CPUs.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            c.decode(batch, beam, args.length)
        flops[c.name] = counter.get_total_flops()
        with peak_of_allocations(args.device) as peak:
            c.decode(batch, beam, args.length)
        weights = {t.data_ptr(): t.nbytes for t in [*c.model.parameters(), *c.model.buffers()]}
        peaks[c.name] = sum(weights.values()) + peak[0]
    seconds: dict[str, list[Seconds]] = {c.name: [] for c in contestants}
    for number in range(args.warm_up + args.rounds):
        for contestant in rotated(contestants, number):
            duration = contestant.seconds(batch, beam, args.length)
            if number >= args.warm_up:
                seconds[contestant.name].append(duration)
    lines = []
    for name, values in seconds.items():
        wall, stock_wall = ([one.wall for one in of] for of in (values, seconds[STOCK]))
        cpu, stock_cpu = ([one.cpu for one in of] for of in (values, seconds[STOCK]))
        median = quartiles(wall)[1]
        lines.append(
            f"| {batch_size} | {beam} | {name} | {median:.3f} | {batch_size * args.length / median:,.0f} "
            f"| {ratio_column(wall, stock_wall)} | {ratio_column(cpu, stock_cpu)} "
            f"| {flops[name] / flops[STOCK]:.2f} | {peaks[name] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

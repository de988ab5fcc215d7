#!/usr/bin/env python3
"""Time of beam search with either network, side by side with stock fairseq.

    python scripts/benchmark_decoding.py [--device cuda] [--beams 1 5] [--batch-sizes 1 32] [--rounds 5]

All models live in one process and take turns with fairseq's own generator on the same sentences. Their weights are
random, and every output has exactly ``--length`` tokens, so that all do the same work; batches hold random tokens. A
round's times are divided by stock fairseq's time of that round.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from cpu_environment import restart_in_cpu_environment
from fairseq import utils
from fairseq.data import Dictionary
from measuring import hardware, peak_of_allocations, quartiles, ratio_column, rotated, seconds_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.synthetic import build, numbered_dictionary, random_batch

STOCK = "stock fairseq"
PARTITIONED = "--optimizer adam_for_partitioned_model --task translation_with_partitioned_model"


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    dictionary = numbered_dictionary(args.vocabulary)
    contestants = contestants_of(args, dictionary)
    print(
        f"{args.arch} {args.arch_options}, {args.length} tokens in and out, vocabulary {args.vocabulary:,}, "
        f"r = {args.ratio}; {args.rounds} rounds; {hardware(args.device, args.threads)}\n"
    )
    print("| batch | beam | model | median s | tokens/s | time / stock (quartiles) | FLOPs / stock | peak MB |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for batch_size in args.batch_sizes:
        for beam in args.beams:
            print(rows(contestants, batch_size, beam, args), flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="transformer_iwslt_de_en", help="a stock fairseq arch")
    parser.add_argument("--arch-options", default="", help="fairseq options that change the arch, in one string")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32], help="sentences")
    parser.add_argument("--length", type=int, default=25, help="tokens of each sentence, in and out")
    parser.add_argument("--vocabulary", type=int, default=10000)
    parser.add_argument("--ratio", type=float, default=0.03125, help="--small-ratio of the partitioned models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda is not there")
    return args


class Contestant:
    """One model, prepared for decoding as ``fairseq-generate`` does."""

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

    def seconds(self, batch: dict[str, Any], beam: int, length: int) -> float:
        return seconds_of(lambda: self.decode(batch, beam, length), self.device)


def contestants_of(args: argparse.Namespace, dictionary: Dictionary) -> list[Contestant]:
    low_rank = f"{PARTITIONED} --partitioned-linear-module-name PartitionedRankLinear --small-ratio {args.ratio}"
    small_width = low_rank.replace("PartitionedRankLinear", "PartitionedLinear")
    rows = [
        (STOCK, "--task translation --optimizer adam"),
        ("low rank: super", low_rank),
        ("low rank: core", f"{low_rank} --max-level 1"),
        ("small width: super", small_width),
        ("small width: core", f"{small_width} --max-level 1"),
    ]
    return [Contestant(*row, args, dictionary) for row in rows]


def rows(contestants: list[Contestant], batch_size: int, beam: int, args: argparse.Namespace) -> str:
    """The table's rows for one batch size and beam."""
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
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    for number in range(args.warm_up + args.rounds):
        for contestant in rotated(contestants, number):
            duration = contestant.seconds(batch, beam, args.length)
            if number >= args.warm_up:
                seconds[contestant.name].append(duration)
    lines = []
    for name, values in seconds.items():
        median = quartiles(values)[1]
        lines.append(
            f"| {batch_size} | {beam} | {name} | {median:.3f} | {batch_size * args.length / median:,.0f} "
            f"| {ratio_column(values, seconds[STOCK])} | {flops[name] / flops[STOCK]:.2f} | {peaks[name] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

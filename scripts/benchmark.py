#!/usr/bin/env python3
"""Time of one training update, side by side with stock fairseq.

    python scripts/benchmark.py [--arch transformer_iwslt_de_en] [--tokens 4096] [--ratio 0.03125] [--rounds 7]

All models live in one process and take turns: in each round every model makes its updates on the same batch, through
fairseq's own Trainer (forward, backward, clipping, Adam, logging). A round's times are divided by the stock update's
time of that round, so that a busy machine disturbs both sides alike; the table shows the median and the quartiles of
those ratios. Warm-up rounds are not counted. FLOPs are PyTorch's own count of forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import torch
from cpu_environment import restart_in_cpu_environment
from fairseq import options
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_REGISTRY
from fairseq.trainer import Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fairseq_ats  # noqa: F401  registers task and optimizer

PARTITIONED = "--task translation_with_partitioned_model --optimizer adam_for_partitioned_model"
STOCK = "stock fairseq"


class Contestant:
    """One model with its trainer, and the times of its updates by kind."""

    def __init__(self, name: str, command: str, args: argparse.Namespace, dictionary: Dictionary) -> None:
        self.name = name
        command = f"data {command} --arch {args.arch} {args.arch_options} --criterion label_smoothed_cross_entropy"
        command += " --label-smoothing 0.1 --lr 1e-4 --cpu --max-tokens 1 --seed 1 --share-all-embeddings"
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=command.split()))
        torch.manual_seed(1)
        self.task = TASK_REGISTRY[cfg.task._name](cfg.task, dictionary, dictionary)
        self.model = self.task.build_model(cfg.model)
        self.criterion = self.task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, self.task, self.model, self.criterion)
        self.alternates = "--alternate" in command

    @property
    def kinds(self) -> list[str]:
        return [f"{self.name}: super update", f"{self.name}: core update"] if self.alternates else [self.name]

    def update(self, batch: dict[str, Any]) -> tuple[str, float]:
        """One update; its kind and its seconds."""
        kind = self.kinds[self.trainer.get_num_updates() % len(self.kinds)]
        start = time.perf_counter()
        self.trainer.train_step([batch])
        return kind, time.perf_counter() - start

    def flops(self, batch: dict[str, Any]) -> dict[str, int]:
        """Of forward and backward, for each kind of update."""
        result = {}
        for number, kind in enumerate(self.kinds):
            # The counter has no formula for the fused attention kernel on CPU.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                self.task.train_step(batch, self.model, self.criterion, self.trainer.optimizer, number)
            result[kind] = counter.get_total_flops()
        self.trainer.zero_grad()
        return result


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(args.threads)
    warnings.filterwarnings("ignore")  # fairseq's and hydra's, on this stack
    torch.set_num_threads(args.threads)
    dictionary = Dictionary()
    for i in range(args.vocabulary - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    batch = random_batch(dictionary, args.tokens, args.length)
    low_rank = f"{PARTITIONED} --partitioned-linear-module-name PartitionedRankLinear --small-ratio {args.ratio}"
    small_width = low_rank.replace("PartitionedRankLinear", "PartitionedLinear")
    commands = {
        STOCK: "--task translation --optimizer adam --adam-betas (0.9,0.98)",
        "low rank": f"{low_rank} --alternate",
        "small width": f"{small_width} --alternate",
        "low-rank core alone": f"{low_rank} --max-level 1",
        "small-width core alone": f"{small_width} --max-level 1",
    }
    contestants = [Contestant(name, command, args, dictionary) for name, command in commands.items()]
    flops = {kind: count for c in contestants for kind, count in c.flops(batch).items()}

    seconds: dict[str, list[float]] = {kind: [] for c in contestants for kind in c.kinds}
    for number in range(args.warm_up + args.rounds):
        for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
            for _ in contestant.kinds:
                kind, duration = contestant.update(batch)
                if number >= args.warm_up:
                    seconds[kind].append(duration)
        print(f"round {number + 1} of {args.warm_up + args.rounds}", flush=True)
    print(report(seconds, flops, batch["ntokens"], args))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="transformer_iwslt_de_en", help="a stock fairseq arch")
    parser.add_argument("--arch-options", default="", help="fairseq options that change the arch, in one string")
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens of the batch")
    parser.add_argument("--length", type=int, default=25, help="tokens of each sentence, both sides")
    parser.add_argument("--vocabulary", type=int, default=10000)
    parser.add_argument("--ratio", type=float, default=0.03125, help="--small-ratio of the partitioned models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


def random_batch(dictionary: Dictionary, tokens: int, length: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    sentences = [
        torch.randint(dictionary.nspecial, len(dictionary), (length,), generator=generator).index_fill_(
            0, torch.tensor([length - 1]), dictionary.eos()
        )
        for _ in range(2 * (tokens // length))
    ]
    half = len(sentences) // 2
    sizes = [length] * half
    dataset = LanguagePairDataset(
        sentences[:half], sizes, dictionary, tgt=sentences[half:], tgt_sizes=sizes, tgt_dict=dictionary
    )
    return dataset.collater([dataset[i] for i in range(half)])


def report(seconds: dict[str, list[float]], flops: dict[str, int], tokens: int, args: argparse.Namespace) -> str:
    """Markdown: seconds, ratio of times and ratio of FLOPs to the stock update."""
    for name in ("low rank", "small width"):
        kinds = [f"{name}: {kind} update" for kind in ("super", "core")]
        average = [statistics.mean(pair) for pair in zip(*(seconds[kind] for kind in kinds), strict=True)]
        seconds[f"{name}: ATS average"] = average
        flops[f"{name}: ATS average"] = sum(flops[kind] for kind in kinds) // 2
    lines = [
        f"{args.arch} {args.arch_options}, {tokens:,} tokens, vocabulary {args.vocabulary:,}, r = {args.ratio}, "
        f"{args.threads} thread(s), {args.rounds} rounds, torch {torch.__version__}",
        "",
        "| update | median s | time / stock (quartiles) | FLOPs / stock |",
        "|---|---:|---:|---:|",
    ]
    for kind, values in seconds.items():
        ratios = [value / stock for value, stock in zip(values, seconds[STOCK], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        lines.append(
            f"| {kind} | {statistics.median(values):.3f} | {middle:.2f} ({low:.2f}-{high:.2f}) | "
            f"{flops[kind] / flops[STOCK]:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

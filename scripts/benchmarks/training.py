#!/usr/bin/env python3
"""Measure the time and memory of one training update, side by side with stock fairseq.

    python -m scripts.benchmarks.training [--precision bfloat16] [--device cuda] [--tokens 4096] [--rounds 5]

All models run in one process and take turns. In each round every model makes its updates on the same batch, with
fairseq's own Trainer (forward, backward, clipping, Adam, logging). The times of a round are divided by the time of the
stock update in that round, so that a busy machine disturbs both times alike. The table shows the median and the
quartiles of these ratios, and the ratio of the FLOPs; the difference between the two is overhead. CPU time is the time
of all threads; other programs on the machine disturb it less than wall time. Warm-up rounds are not counted.

In bfloat16, stock fairseq keeps a bfloat16 model and float32 copies (``common.bf16``; on a CPU only fairseq-hydra-train
can set it). The other models use ``--autocast bfloat16``. Partitioned models use the fused loss, unless ``--criterion``
says otherwise. Peak memory is the most that PyTorch holds during an update: weights, optimizer state, gradients and
activations. What an update adds is the peak without what is held between updates. The memory of an ATS average is the
larger of its two updates'.
No batch has padding, and all embeddings are shared. On a CPU the allocator keeps freed memory
(``fairseq_ats.cli.environment``).
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer
from tabulate import tabulate

from fairseq_ats.architectures.transformer import replace_attention_and_dropout_
from fairseq_ats.cost.cost import network_cost
from fairseq_ats.cost.synthetic import build, numbered_dictionary, random_batch
from fairseq_ats.modules.fused_loss import CRITERION_NAME
from fairseq_ats.training.precision import in_autocast
from scripts.benchmarks.command_line import PARTITIONED, STOCK, conditions, low_rank, parser_of, small_width, start
from scripts.benchmarks.timing import Seconds, peak_of_allocations, quartiles, ratio_column, rotated, seconds_of

STANDARD = "standard (our attention, dropout and Adam; no partition)"
OURS = "--optimizer adam_for_partitioned_model --task"


def main() -> None:
    args = parse_args()
    dictionary = numbered_dictionary(args.vocabulary)
    contestants = contestants_of(args, dictionary)
    batch = random_batch(contestants[0].task, args.tokens // args.length, args.length)
    flops = {kind: count for c in contestants for kind, count in c.flops.items()}
    seconds: dict[str, list[Seconds]] = {kind: [] for c in contestants for kind in c.kinds}
    for number in range(args.warm_up + args.rounds):
        for contestant in rotated(contestants, number):
            for _ in contestant.kinds:
                kind, duration = contestant.update(batch)
                if number >= args.warm_up:
                    seconds[kind].append(duration)
        print(f"round {number + 1} of {args.warm_up + args.rounds}", flush=True)
    memory = {kind: memory for c in contestants for kind, memory in c.memory(batch).items()}
    print(report(seconds, flops, memory, batch["ntokens"], args))


def parse_args() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=4096, help="target tokens of the batch (default: 4096)")
    parser.add_argument(
        "--criterion", default=CRITERION_NAME, help=f"of partitioned models (default: {CRITERION_NAME})"
    )
    args = start(parser)
    if args.tokens < args.length:
        parser.error(f"argument --tokens: {args.tokens} is not allowed; allowed: --length ({args.length}) or more")
    return args


class Memory(NamedTuple):
    """Bytes of an update: the peak, and the part of it that the update adds to what is kept between updates."""

    peak: int
    added: int


class StandardTask(TranslationTask):
    """fairseq's translation task with the plugin's autocast."""

    autocast: str | None = None

    def train_step(
        self, sample: dict, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> tuple[Any, Any, dict]:
        criterion = in_autocast(criterion, self.autocast)
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)


class Contestant:
    """One model with its trainer.

    Args:
        name: the beginning of the names of its rows in the table.
        options: fairseq's options for the task, the optimizer and the partition.
        levels: for each kind of update, in the order in which they take turns, the rest of its row's name and the
            levels that it runs. A level is None for a model that is not partitioned.
    """

    def __init__(
        self,
        name: str,
        options: str,
        levels: dict[str, tuple[int | None, ...]],
        args: argparse.Namespace,
        dictionary: Dictionary,
    ) -> None:
        self.levels = {f"{name}{kind}": of_kind for kind, of_kind in levels.items()}
        self.device = args.device
        low = args.precision == "bfloat16"
        command = f"{options} --arch {args.arch} {args.arch_options} --lr 1e-4 --seed 1 --share-all-embeddings"
        if args.device == "cpu":
            command += " --cpu"
        if PARTITIONED in options:
            command += f" --criterion {args.criterion}" + (" --autocast bfloat16" if low else "")
        built = build(command.split(), dictionary)
        if name == STANDARD:
            replace_attention_and_dropout_(built.model)
            built.task.__class__ = StandardTask
            built.task.autocast = "bfloat16" if low else None
        if name == STOCK:
            built.cfg.common.bf16 = low
        self.task = built.task
        # Count before the trainer converts the model to half precision or moves it to a GPU.
        sentences = args.tokens // args.length
        self.flops = {
            kind: sum(network_cost(built.model, built.task, sentences, args.length, level).flops for level in levels)
            for kind, levels in self.levels.items()
        }
        self.trainer = Trainer(built.cfg, built.task, built.model, built.criterion)

    @property
    def kinds(self) -> list[str]:
        return list(self.levels)

    def update(self, batch: dict[str, Any]) -> tuple[str, Seconds]:
        """Make one update, and return its kind and its time."""
        kind = self.kinds[self.trainer.get_num_updates() % len(self.kinds)]
        return kind, seconds_of(lambda: self.trainer.train_step([batch]), self.device)

    def memory(self, batch: dict[str, Any]) -> dict[str, Memory]:
        """Return the memory of each kind of update."""
        result = {}
        for _ in self.kinds:
            self.trainer.zero_grad()
            kept = self._kept_bytes()
            with peak_of_allocations(self.device) as peak:
                kind, _ = self.update(batch)
            result[kind] = Memory(kept + peak[0], peak[0])
        return result

    def _kept_bytes(self) -> int:
        inner = self.trainer.optimizer.optimizer
        tensors = [*self.trainer.model.parameters(), *self.trainer.model.buffers()]
        for group in inner.param_groups:
            for p in group["params"]:
                tensors += [p, *(p.grad for _ in range(p.grad is not None))]
                tensors += [value for value in inner.state[p].values() if torch.is_tensor(value)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def contestants_of(args: argparse.Namespace, dictionary: Dictionary) -> list[Contestant]:
    rank, width = low_rank(args), small_width(args)
    in_turn = {": super update": (2,), ": core update": (1,)}
    together = {": slimmable": (2, 1)}
    rows = [
        (STOCK, "--task translation --optimizer adam --adam-betas (0.9,0.98)", {"": (None,)}),
        (STANDARD, f"{OURS} translation", {"": (None,)}),
        ("low rank", f"{rank} --scheme alternate", in_turn),
        ("small width", f"{width} --scheme alternate", in_turn),
        ("low rank", f"{rank} --scheme slimmable", together),
        ("small width", f"{width} --scheme slimmable", together),
        ("low-rank core alone", f"{rank} --scheme core", {"": (1,)}),
        ("small-width core alone", f"{width} --scheme core", {"": (1,)}),
    ]
    return [Contestant(*row, args, dictionary) for row in rows]


def report(
    seconds: dict[str, list[Seconds]],
    flops: dict[str, int],
    memory: dict[str, Memory],
    tokens: int,
    args: argparse.Namespace,
) -> str:
    """Return a Markdown table of the seconds, and of time, FLOPs and memory relative to the stock update."""
    for name in ("low rank", "small width"):
        kinds = [f"{name}: {kind} update" for kind in ("super", "core")]
        average = f"{name}: ATS average"
        pairs = zip(*(seconds[kind] for kind in kinds), strict=True)
        seconds[average] = [Seconds(*map(statistics.mean, zip(*pair, strict=True))) for pair in pairs]
        flops[average] = sum(flops[kind] for kind in kinds) // 2
        memory[average] = Memory(*(max(of_kinds) for of_kinds in zip(*(memory[kind] for kind in kinds), strict=True)))
    wall = {kind: [one.wall for one in values] for kind, values in seconds.items()}
    cpu = {kind: [one.cpu for one in values] for kind, values in seconds.items()}
    title = f"{args.arch} {args.arch_options}, {args.precision}, {tokens:,} tokens in sentences of {args.length}"
    header = ["update", "median s", "tokens/s", "time / stock (quartiles)", "FLOPs / stock", "time / standard"]
    header += ["peak MB", "/ stock", "CPU time / stock (quartiles)", "an update adds MB", "/ stock"]
    rows = []
    for kind in seconds:
        median = quartiles(wall[kind])[1]
        cells = [kind, f"{median:.3f}", f"{tokens / median:,.0f}", ratio_column(wall[kind], wall[STOCK])]
        cells += [f"{flops[kind] / flops[STOCK]:.2f}", ratio_column(wall[kind], wall[STANDARD]).split()[0]]
        cells += [f"{memory[kind].peak / 1e6:,.0f}", f"{memory[kind].peak / memory[STOCK].peak:.2f}"]
        cells += [ratio_column(cpu[kind], cpu[STOCK])]
        cells += [f"{memory[kind].added / 1e6:,.0f}", f"{memory[kind].added / memory[STOCK].added:.2f}"]
        rows.append(cells)
    sides = ["left"] + ["right"] * (len(header) - 1)
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=sides)
    return f"{title}, {conditions(args)}\n\n{table}"


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Decode every network of a run on the test set, and print what it scores, weighs and costs.

    python scripts/evaluate.py DATA RUN [--beam 5]

Each network is decoded from its own best checkpoint: ``checkpoint_best_core.pt``, ``checkpoint_best_level2.pt``, ...,
or ``checkpoint_best.pt`` where there is no such file. The networks take turns batch by batch in one process, so that
their speeds can be compared on a busy machine. Writes ``RUN/evaluation.json`` and, for each network,
``RUN/test.NETWORK.txt``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from cpu_environment import restart_in_cpu_environment
from fairseq import utils
from quiet import silence_libraries

from fairseq_ats.arguments import positive
from fairseq_ats.checkpoints import read_partition
from fairseq_ats.data_folder import DataFolder
from fairseq_ats.loading import load_network, prepare_to_decode, read_checkpoint
from fairseq_ats.saved_options import saved_options


@dataclass
class Network:
    """One network to decode, and what was measured."""

    name: str
    checkpoint: str
    level: int | None
    updates: int = 0
    parameters: int = 0
    bleu: float = 0.0
    signature: str = ""
    words: int = 0
    seconds: float = 0.0
    hypotheses: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def words_per_second(self) -> float:
        return self.words / self.seconds


@dataclass(frozen=True)
class Search:
    """How hypotheses are searched for; a hypothesis has at most 1.2 times the source's tokens and 10 more."""

    beam: int
    length_penalty: float = 1.0

    def options(self) -> argparse.Namespace:
        """As fairseq's ``build_generator`` reads them."""
        return argparse.Namespace(beam=self.beam, lenpen=self.length_penalty, max_len_a=1.2, max_len_b=10)


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(args.threads)
    silence_libraries()
    torch.set_num_threads(args.threads)
    try:
        evaluate(args)
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate: {error}")


def evaluate(args: argparse.Namespace) -> None:
    """Decode, score, and write what was found.

    Raises:
        ValueError: the data, or a checkpoint, are not allowed.
    """
    networks = networks_of(args.run)
    loaded = [load(network, args.data) for network in networks]
    model, task = loaded[0]
    references = raw_references(args.data, task.cfg.target_lang)
    decode(networks, loaded, Search(args.beam), batches_of(model, task, "test", args.batch_size))
    for network in networks:
        hypotheses = [network.hypotheses[i] for i in range(len(references))]
        (args.run / f"test.{network.name}.txt").write_text("".join(h + "\n" for h in hypotheses), encoding="utf-8")
        metric = sacrebleu.BLEU()
        network.bleu = metric.corpus_score(hypotheses, [references]).score
        network.signature = str(metric.get_signature())
    partition = read_partition(networks[0].checkpoint)
    result = {
        "partition": None if partition is None else partition.to_dict(),
        "beam": args.beam,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "networks": [
            {k: v for k, v in asdict(n).items() if k != "hypotheses"} | {"words_per_second": n.words_per_second}
            for n in networks
        ],
    }
    (args.run / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(networks))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of binarised data, with the raw references in it")
    parser.add_argument("run", type=Path, help="folder with the checkpoints")
    parser.add_argument("--beam", type=positive, default=5)
    parser.add_argument("--batch-size", type=positive, default=32, help="sentences a batch")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    args = parser.parse_args()
    if not (args.run / "checkpoint_best.pt").is_file():
        parser.error(f"argument run: {args.run} has no checkpoint_best.pt")
    return args


def networks_of(run: Path) -> list[Network]:
    """What a run trained: every network from the highest down, or a stock model."""
    best = run / "checkpoint_best.pt"
    partition = read_partition(str(best))
    if partition is None:
        return [Network("standard", str(best), None)]
    names = {level: partition.network_name(level) for level in reversed(partition.levels)}
    best_of = {level: run / f"checkpoint_best_{name}.pt" for level, name in names.items()}
    return [Network(names[level], str(path if path.is_file() else best), level) for level, path in best_of.items()]


def load(network: Network, data: Path) -> tuple[Any, Any]:
    """Model and task, as ``fairseq-generate`` would build them."""
    checkpoint, _ = read_checkpoint(network.checkpoint)
    model, task = load_network(
        network.checkpoint, DataFolder.find(data, saved_options(checkpoint, "task")), network.level
    )
    network.updates = checkpoint["optimizer_history"][-1]["num_updates"]
    network.parameters = sum(p.numel() for p in model.parameters())
    prepare_to_decode(model)
    return model, task


def batches_of(model: Any, task: Any, subset: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Mini-batches of a subset, in the order of length: every sentence once.

    Raises:
        ValueError: a sentence is longer than the model takes.
    """
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    longest, _ = model.max_positions()  # of references nothing goes into the model
    for number, size in enumerate(dataset.src_sizes.tolist(), start=1):
        if size > longest:
            raise ValueError(
                f"{task.cfg.data}: sentence {number:,} of {subset} has {size:,} tokens with its end, and the network "
                f"takes {longest:,}; leave it out of the data, or translate the text with fairseq-ats-translate, which "
                "cuts long lines into parts"
            )
    return task.get_batch_iterator(dataset, max_sentences=batch_size).next_epoch_itr(shuffle=False)


def decode(
    networks: list[Network],
    loaded: list[tuple[Any, Any]],
    search: Search,
    batches: Iterable[dict[str, Any]],
    device: str = "cpu",
) -> None:
    """Decode batches with every network, in turns; fills in the hypotheses, words and seconds."""
    turns = [
        (network, model.to(device), own_task, own_task.build_generator([model], search.options()))
        for network, (model, own_task) in zip(networks, loaded, strict=True)
    ]
    for number, batch in enumerate(batches):
        # Each batch is first for another network: none gets the warm caches always.
        shift = number % len(turns)
        for network, model, task, generator in turns[shift:] + turns[:shift]:
            start = time.perf_counter()
            beams = task.inference_step(generator, [model], utils.move_to_cuda(batch) if device == "cuda" else batch)
            network.seconds += time.perf_counter() - start
            for index, beam in zip(batch["id"].tolist(), beams, strict=True):
                text = text_of(task, beam[0]["tokens"].cpu())
                network.hypotheses[index] = text
                network.words += len(text.split())


def text_of(task: Any, tokens: torch.Tensor) -> str:
    """Of target tokens, which may be padded."""
    return task.target_dictionary.string(utils.strip_pad(tokens, task.target_dictionary.pad()), "sentencepiece")


def raw_references(data: Path, language: str) -> list[str]:
    """The raw lines that ``scripts/binarise.py`` puts beside the binarised data.

    Raises:
        ValueError: there are none.
    """
    path = data / f"test.{language}"
    if not path.is_file():
        raise ValueError(f"{data} has no {path.name}, the raw references that scripts/binarise.py puts there")
    # A line ends at a newline and nowhere else, whatever separators Unicode knows.
    return path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")


def table(networks: list[Network]) -> str:
    """Markdown."""
    lines = ["| network | BLEU | parameters | words/s | speed | updates |", "|---|---:|---:|---:|---:|---:|"]
    first = networks[0].words_per_second
    for n in networks:
        speed = n.words_per_second / first
        lines.append(
            f"| {n.name} | {n.bleu:.2f} | {n.parameters:,} | {n.words_per_second:,.0f} | {speed:.2f}× | {n.updates:,} |"
        )
    return "\n".join([*lines, "", f"sacreBLEU {networks[0].signature}"])


if __name__ == "__main__":
    main()

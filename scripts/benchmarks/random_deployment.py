#!/usr/bin/env python3
"""Measure the speed and the size of deployed networks that are too large to train here: their weights are random.

    python -m scripts.benchmarks.random_deployment {multi30k,iwslt,wmt} DATA [--rounds 5] [--sentences 32]

Every core is compared with stock fairseq on the super-network, and with the super-network in CTranslate2's int8. The
text and the shortlist are those of DATA, whose dictionary is filled up with pieces that do not occur. The networks
never end a sentence, so that every translation has ``--length`` pieces. What is measured, and how, is as in
``scripts.benchmarks.deployment``.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import tempfile
from pathlib import Path

import torch
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.environment import restart_in_cpu_environment
from fairseq_ats.convert.conversion import size_on_disk
from fairseq_ats.convert.formats.ctranslate2 import CTranslate2Model
from fairseq_ats.convert.formats.fairseq import StockCheckpoint
from fairseq_ats.convert.formats.onnx import OnnxModel
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import read_source
from fairseq_ats.cost.synthetic import build
from fairseq_ats.data.lines import raw_lines
from scripts.benchmarks.deployment import (
    BATCH_SIZE,
    BEAM,
    STOCK,
    SUPER_INT8,
    Contestant,
    Measured,
    dense_where_needed,
    faster,
    further_report,
    machine,
    measure,
    workers_of,
)

# The options of the network, and the size of its vocabulary.
SIZES = {
    "multi30k": (
        "--arch transformer --encoder-layers 4 --decoder-layers 4 --encoder-embed-dim 128 --decoder-embed-dim 128 "
        "--encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256 --encoder-attention-heads 4 "
        "--decoder-attention-heads 4",
        10_000,
    ),
    "iwslt": ("--arch transformer_iwslt_de_en", 10_000),
    "wmt": ("--arch transformer_wmt_en_de", 32_000),
}
_TASK = (
    "--task translation_with_partitioned_model --optimizer adam_for_partitioned_model --share-all-embeddings "
    "--source-lang en --target-lang de"
)
_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25"
_RANK = "--partitioned-linear-module-name PartitionedRankLinear --small-ratio 0.03125"

# The options that make the network, and its level.
NETWORKS = {
    "super": (_WIDTH, "super"),
    "width 1/4": (_WIDTH, "core"),
    "low rank 1/32": (_RANK, "core"),
    "2 decoder layers": ("--core-decoder-layers 2", "core"),
    "2 decoder layers, width 1/4": (f"--core-decoder-layers 2 {_WIDTH}", "core"),
    "2 decoder layers, low rank 1/32": (f"--core-decoder-layers 2 {_RANK}", "core"),
    "1 decoder layer, width 1/4": (f"--core-decoder-layers 1 {_WIDTH}", "core"),
}
FORMS: dict[str, OutputFormat] = {
    "stock fairseq": StockCheckpoint(),
    "CTranslate2 float32": CTranslate2Model(),
    "CTranslate2 int8": CTranslate2Model(quantization="int8"),
    "CTranslate2 int8 shortlist": CTranslate2Model(quantization="int8", shortlist="train"),
    "ONNX float32": OnnxModel(),
    "ONNX int8": OnnxModel(quantization="int8"),
}
# Stock fairseq and float32 for the super-network alone; ONNX where layers are thin.
DEFAULT = [
    *(f"{form}, super" for form in FORMS if not form.startswith("ONNX")),
    *(f"CTranslate2 {kind}, {network}" for network in list(NETWORKS)[1:] for kind in ("int8", "int8 shortlist")),
    "ONNX float32, low rank 1/32",
    "ONNX int8, low rank 1/32",
    "ONNX int8, 2 decoder layers, low rank 1/32",
]


def main() -> None:
    args = parse_args()
    restart_in_cpu_environment(1)
    logging.disable(logging.INFO)
    options, vocabulary = SIZES[args.size]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dictionary = filled_up(Dictionary.load(str(args.data / "dict.en.txt")), vocabulary)
        contestants = [
            dataclasses.replace(deploy(name, options, args.data, dictionary, folder), longest=args.length)
            for name in dict.fromkeys([STOCK, SUPER_INT8, *args.contestants])
        ]
        sizes = {c.name: size_on_disk(c.path) for c in contestants}
        source = raw_lines(args.data, "en")[: args.sentences]
        with workers_of(contestants, args.cores) as workers:
            measured = measure(workers, source, args.latency_sentences, args.rounds)
    search = f"{args.sentences} sentences of {args.length} pieces out, batch {BATCH_SIZE}, beam {BEAM}"
    print(f"{args.size}, {vocabulary:,} pieces: {search}; {args.rounds} rounds; {machine(args.cores)}\n")
    print(f"{report(measured, sizes, args.length * args.sentences)}\n\n{further_report(measured, None)}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [f"{form}, {network}" for network in NETWORKS for form in FORMS]
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("data", type=Path, metavar="DATA", help="en-de, from fairseq-ats binarise")
    parser.add_argument("--contestants", nargs="+", choices=every, default=DEFAULT, metavar="'FORM, NETWORK'")
    parser.add_argument("--sentences", type=positive, default=BATCH_SIZE)
    parser.add_argument("--latency-sentences", type=positive, default=5, help="for batch 1")
    parser.add_argument("--length", type=positive, default=16, help="pieces of a translation (default: 16)")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--cores", type=positive, default=1, help="CPU cores that every contestant has (default: 1)")
    return parser.parse_args()


def filled_up(dictionary: Dictionary, size: int) -> Dictionary:
    """Return the dictionary with further pieces, so that it has ``size`` entries."""
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"unused{number}")
    return dictionary


def deploy(name: str, options: str, data: Path, dictionary: Dictionary, folder: Path) -> Contestant:
    """Write one network in one form, without verifying it: rounding changes random weights more than trained ones.

    Args:
        name: the form, a comma, and the network.
    """
    form, _, network = name.partition(", ")
    more, level = NETWORKS[network]
    own = folder / more
    if not own.is_dir():
        save_random(f"{options} {_TASK} {more}", data, dictionary, own)
    path = folder / name.replace("/", ":")
    output_format = FORMS[form]
    if output_format.is_folder:
        path.mkdir()
    source = read_source(own / "checkpoint.pt", level)
    for _ in dense_where_needed(output_format, source).write(source, path):
        pass
    if output_format.is_folder:
        return Contestant(name, path, None, None)
    return Contestant(name, path, None, own)


def save_random(arguments: str, data: Path, dictionary: Dictionary, folder: Path) -> None:
    """Save a network with random weights as fairseq's trainer does, with its data beside it."""
    folder.mkdir()
    for path in data.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    for language in ("en", "de"):
        (folder / f"dict.{language}.txt").unlink()
        dictionary.save(str(folder / f"dict.{language}.txt"))
    built = build(arguments.split(), dictionary)
    with torch.no_grad():
        # Its logit is then 0, and in a large vocabulary there are always more likely pieces.
        built.model.get_parameter("encoder.embed_tokens.weight")[dictionary.eos()] = 0.0
    cfg = OmegaConf.to_container(built.cfg, resolve=True, enum_to_str=True)
    assert isinstance(cfg, dict)
    cfg["task"]["data"] = str(folder)
    progress = {"train_iterator": {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}}
    state = {
        "args": None,
        "cfg": cfg,
        "model": built.model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": built.task.state_dict(),
        "extra_state": progress,
    }
    torch.save(state, folder / "checkpoint.pt")


def report(measured: Measured, sizes: dict[str, int], pieces: int) -> str:
    """Return the speeds in batches and sizes as Markdown.

    Args:
        pieces: the number of pieces in all translations.
    """
    lines = [
        "| deployed as | pieces/s (CPU) | by CPU time (quartiles) | latency ms (CPU) | size MB | memory MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, turns in measured.turns.items():
        batch, latency = (min(turn.cpu for turn in of) for of in (turns, measured.one_by_one[name]))
        lines.append(
            f"| {name} | {pieces / batch:,.0f} | {faster(measured.turns, name, STOCK)} "
            f"| {latency / measured.latency * 1e3:.1f} | {sizes[name] / 1e6:.1f} "
            f"| {measured.memory[name] / 1e6:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Read the options that all benchmarks share: the models to measure and their sizes."""

from __future__ import annotations

import argparse

import torch

from fairseq_ats.cli.arguments import positive
from fairseq_ats.cli.environment import restart_in_cpu_environment
from fairseq_ats.cli.hardware import check_device, hardware

STOCK = "stock fairseq"
PARTITIONED = "--optimizer adam_for_partitioned_model --task translation_with_partitioned_model"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared options; :func:`start` parses them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="transformer_iwslt_de_en", help="a stock fairseq arch")
    parser.add_argument("--arch-options", default="", help="fairseq options that change the arch, in one string")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--length", type=positive, default=25, help="tokens of each sentence, on both sides (default: 25)"
    )
    parser.add_argument("--vocabulary", type=positive, default=10000)
    parser.add_argument("--ratio", type=float, default=0.03125, help="--small-ratio of the partitioned models")
    parser.add_argument(
        "--core-options", default="", help="more fairseq options of the partition, such as '--core-decoder-layers 2'"
    )
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that are not counted")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    return parser


def start(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and give this process the allocator and the threads of a training."""
    args = parser.parse_args()
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    restart_in_cpu_environment(args.threads)
    torch.set_num_threads(args.threads)
    return args


def low_rank(args: argparse.Namespace) -> str:
    """Return fairseq's options for a low-rank partition."""
    return _partitioned(args, "PartitionedRankLinear")


def small_width(args: argparse.Namespace) -> str:
    """Return fairseq's options for a small-width partition."""
    return _partitioned(args, "PartitionedLinear")


def _partitioned(args: argparse.Namespace, module: str) -> str:
    return f"{PARTITIONED} --partitioned-linear-module-name {module} --small-ratio {args.ratio} {args.core_options}"


def conditions(args: argparse.Namespace) -> str:
    """Return the text above a table that says how it was measured."""
    core = f"r = {args.ratio} {args.core_options}".rstrip()
    return f"vocabulary {args.vocabulary:,}, {core}; {args.rounds} rounds; {hardware(args.device, args.threads)}"

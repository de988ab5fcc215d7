"""Run the command ``fairseq-ats``: choose the sub-command, and leave the rest to its module.

A module is imported when its command runs: the help does not wait for torch and fairseq.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from fairseq_ats import __version__
from fairseq_ats.cli.arguments import CommandParser

PROGRAM = "fairseq-ats"

# Each is a module beside this one, with ``main(arguments, prog)``.
COMMANDS = {
    "binarise": "turn raw parallel text into binarised data",
    "train": "train from a configuration file",
    "launch": "run a training with several workers on CPUs",
    "evaluate": "decode the test set with every network of a run, and score it",
    "average": "average checkpoints of a run",
    "convert": "take one network out of a checkpoint: for fairseq, CTranslate2, ONNX Runtime, or further training",
    "translate": "translate text with any network of a run, or with a converted one",
    "distil": "translate training data with a trained network, for a smaller network to learn from",
    "cost": "count what each network and each update costs",
    "images": "turn images into prepared images",
    "classify": "classify images with any network of a run, or with a converted one",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sub-command."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items())
    parser = CommandParser(
        PROGRAM,
        "Train a Transformer together with its core network, and use either of them.",
        epilog=f"commands:\n{listed}\n\n{PROGRAM} COMMAND --help describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.command not in COMMANDS:
        parser.error(f"COMMAND is {args.command}; allowed: {', '.join(COMMANDS)}")
    import_module(f"fairseq_ats.cli.{args.command}").main(args.arguments, f"{PROGRAM} {args.command}")

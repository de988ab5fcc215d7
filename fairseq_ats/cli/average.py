"""Average the parameters of several checkpoints of a run.

    fairseq-ats average RUN --last-epochs 5 --output RUN/average.pt
    fairseq-ats average RUN --best 5 --network core --output RUN/average_core.pt
    fairseq-ats average RUN/checkpoint10.pt RUN/checkpoint11.pt --output RUN/average.pt

Checkpoints are chosen for one network, and averaged whole. The core is best at other times than the super-network, so
each network has its own average, just as it has its own best checkpoint. But the networks share the core's parameters,
and a super-network whose parts come from two averages was never trained. So every file holds all networks. Decode a
file that was chosen for the core with --max-level 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
from fairseq_ats.checkpoints import choice
from fairseq_ats.checkpoints.average import average_checkpoints
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.files import written_whole
from fairseq_ats.host import safetensors_file


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats-average") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    with parser.errors_in_a_sentence():
        if args.output.endswith(safetensors_file.SUFFIX):
            safetensors_file.check_package(args.output)
        paths = _chosen(args)
        # Open the output first: reading takes minutes, and whether it can be written is known at once.
        with written_whole(args.output) as temporary:
            safetensors_file.save(average_checkpoints(paths), temporary)
    print(f"{args.output}: average of {', '.join(os.path.basename(path) for path in paths)}")


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="RUN|CHECKPOINT", help="a run's folder, or checkpoints")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="checkpoint to write; safetensors if it ends in .safetensors"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--last-epochs",
        type=positive,
        metavar="N",
        help="with RUN: the last N files checkpointE.pt; for an epoch within which the run ended, checkpoint_last.pt",
    )
    which.add_argument(
        "--last-updates", type=positive, metavar="N", help="with RUN: the last N files checkpoint_E_U.pt"
    )
    which.add_argument(
        "--best", type=positive, metavar="N", help="with RUN: the N checkpoints with the best validation"
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="with --best: choose by this network's validation: core, super, or a network between them, such as level2 "
        "(default: the highest network); the run's --best-checkpoint-metric says what is compared",
    )
    parser.add_argument(
        "--checkpoint-suffix", default="", metavar="SUFFIX", help="the same as in the training of the run"
    )
    return parser


def _chosen(args: argparse.Namespace) -> list[str]:
    """Return the checkpoints to average, in the order of their updates if they come from a run.

    Raises:
        ValueError: the arguments do not name checkpoints, or the run has fewer.
    """
    if args.network is not None and args.best is None:
        raise ValueError(f"--network is {args.network}, which needs --best")
    if not (args.last_epochs or args.last_updates or args.best):
        folders = [path for path in args.inputs if path.is_dir()]
        if folders:
            raise ValueError(f"{folders[0]} is a folder; add --last-epochs N, --last-updates N or --best N")
        if args.checkpoint_suffix:
            raise ValueError(
                f"--checkpoint-suffix is {args.checkpoint_suffix}, which needs --last-epochs, --last-updates or --best"
            )
        return [str(path) for path in args.inputs]
    run = args.inputs[0]
    if len(args.inputs) > 1 or not run.is_dir():
        given = " ".join(map(str, args.inputs))
        raise ValueError(f"--last-epochs, --last-updates and --best choose from the folder of one run; given: {given}")
    if args.best is None:
        within_epochs = args.last_updates is not None
        return choice.last(run, args.last_updates or args.last_epochs, within_epochs, args.checkpoint_suffix)
    found = choice.best(run, args.best, args.network, args.checkpoint_suffix)
    for one in found:
        print(f"{os.path.basename(one.path)}: {one.metric} {one.value:g} after {one.updates:,} updates")
    return [one.path for one in sorted(found, key=lambda one: one.updates)]

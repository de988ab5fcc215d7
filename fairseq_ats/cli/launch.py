"""Run a training on CPUs with several workers: one process each, which fairseq cannot start there itself.

    fairseq-ats launch --workers 2 fairseq-train DATA --user-dir PLUGIN --cpu ...
    fairseq-ats launch --workers 2 fairseq-ats train CONFIG DATA --save-dir RUN --cpu

The workers talk by gloo. If one ends with an error, the others are killed, and the command ends with its exit status. A
signal to stop is passed on to all workers. On GPUs use torchrun or fairseq's own launch.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.workers import Workers, search_path


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats launch") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    if args.world_size is None:
        args.world_size = args.workers
    problem = _problem(args)
    if problem is not None:
        parser.error(problem)
    with tempfile.TemporaryDirectory(prefix="launch.") as folder:
        # A file: another process could take a port between its choice and its use.
        init_method = args.init_method or f"file://{folder}/workers"
        workers = Workers(_command(args), args.workers, args.threads, args.world_size, args.first_rank, init_method)
        sys.exit(workers.run())


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__, allow_abbrev=False)
    parser.add_argument("--workers", type=positive, required=True, metavar="N", help="processes on this machine")
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="CPU threads of each process (default: 1)"
    )
    several = parser.add_argument_group("several machines", "call the same command on each, with another --first-rank")
    several.add_argument(
        "--world-size", type=positive, metavar="N", help="workers on all machines (default: --workers)"
    )
    several.add_argument(
        "--first-rank", type=int, default=0, metavar="N", help="rank of this machine's first worker (default: 0)"
    )
    several.add_argument("--init-method", metavar="ADDRESS", help="tcp://HOST:PORT of the machine of rank 0")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="fairseq-train or fairseq-ats train, and its options")
    return parser


def _command(args: argparse.Namespace) -> list[str]:
    """Return what each worker runs; ``fairseq-ats train`` has threads of its own, all cores unless they are given."""
    program, *rest = args.command
    if Path(program).name != "fairseq-ats" or any(word.partition("=")[0] == "--threads" for word in rest):
        return args.command
    return [*args.command, "--threads", str(args.threads)]


def _problem(args: argparse.Namespace) -> str | None:
    """Return why the workers could not train; None if they can."""
    if not args.command:
        return "argument command: required, fairseq-train or fairseq-ats train, and its options"
    if shutil.which(args.command[0], path=search_path()) is None:
        return f"argument command: {args.command[0]} is not a command"
    # Another command, such as fairseq-ats train, may find --cpu in a configuration file.
    if args.command[0] == "fairseq-train" and "--cpu" not in args.command:
        return "argument command: it has no --cpu; on GPUs use torchrun or fairseq's own launch"
    if "--ddp-backend" in args.command and args.command[-1] != "--ddp-backend":
        backend = args.command[args.command.index("--ddp-backend") + 1]
        if backend not in ("legacy_ddp", "no_c10d"):
            return f"argument command: --ddp-backend is {backend}; allowed on a CPU: legacy_ddp"
    ours = [option for option in args.command if option.startswith("--distributed-")]
    if ours:
        return f"argument command: {ours[0]} is this launcher's; leave it out"
    if not 0 <= args.first_rank <= args.world_size - args.workers:
        return (
            f"argument --first-rank: {args.first_rank} is not allowed; allowed with --workers {args.workers} and "
            f"--world-size {args.world_size}: 0 to {args.world_size - args.workers}"
        )
    if args.world_size > args.workers and args.init_method is None:
        return "argument --init-method: required with several machines, tcp://HOST:PORT of rank 0"
    return None

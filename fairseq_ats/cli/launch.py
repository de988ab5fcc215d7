#!/usr/bin/env python3
"""Run ``fairseq-train`` on CPUs with several workers: one process each, which fairseq cannot start there itself.

    python scripts/launch.py --workers 2 fairseq-train DATA --user-dir fairseq_ats --cpu ...

The workers talk by gloo. If one ends with an error, the others are killed, and its exit status is that of this
command; a signal to stop is passed on to all. On GPUs use torchrun or fairseq's own launch: docs/several_workers.md.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from fairseq_ats.cli.environment import CPU_ENVIRONMENT

POLL_SECONDS = 0.1
# Until a worker that was asked to stop is killed.
GRACE_SECONDS = 10.0
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, required=True, help="processes on this machine")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each (default: 1)")
    several = parser.add_argument_group("several machines", "the same command on each, with another --first-rank")
    several.add_argument("--world-size", type=int, help="workers on all machines (default: --workers)")
    several.add_argument("--first-rank", type=int, default=0, help="rank of this machine's first worker (default: 0)")
    several.add_argument("--init-method", help="tcp://HOST:PORT, of the machine of rank 0")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="fairseq-train and its options")
    args = parser.parse_args()
    check(parser, args)
    with tempfile.TemporaryDirectory(prefix="launch.") as folder:
        # A file and no port, which another process could take between choice and use.
        init_method = args.init_method or f"file://{folder}/workers"
        # Until there are all workers to pass them on to.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        sys.exit(supervise(start_workers(args, init_method)))


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a sentence if the workers could not train."""
    for name in ("workers", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: {getattr(args, name)} is not allowed; allowed: 1 or more")
    if not args.command:
        parser.error("argument command: it is missing; allowed: fairseq-train and its options")
    if shutil.which(args.command[0], path=search_path()) is None:
        parser.error(f"argument command: {args.command[0]} is not a command")
    # Of another command, such as scripts/train.py, a configuration file may say it.
    if args.command[0] == "fairseq-train" and "--cpu" not in args.command:
        parser.error("argument command: it has no --cpu; for GPUs see docs/several_workers.md")
    if "--ddp-backend" in args.command and args.command[-1] != "--ddp-backend":
        backend = args.command[args.command.index("--ddp-backend") + 1]
        if backend not in ("legacy_ddp", "no_c10d"):
            parser.error(f"argument command: --ddp-backend is {backend}; allowed on a CPU: legacy_ddp")
    ours = [option for option in args.command if option.startswith("--distributed-")]
    if ours:
        parser.error(f"argument command: {ours[0]} is this launcher's; leave it out")
    args.world_size = args.workers if args.world_size is None else args.world_size
    if not 0 <= args.first_rank <= args.world_size - args.workers:
        parser.error(
            f"argument --first-rank: {args.first_rank} is not allowed; allowed with --workers {args.workers} and "
            f"--world-size {args.world_size}: 0 to {args.world_size - args.workers}"
        )
    if args.world_size > args.workers and args.init_method is None:
        parser.error("argument --init-method: it is missing; several machines need tcp://HOST:PORT, of rank 0's")


def start_workers(args: argparse.Namespace, init_method: str) -> list[subprocess.Popen[bytes]]:
    common = ["--distributed-world-size", str(args.world_size), "--distributed-init-method", init_method]
    common += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
    if "--ddp-backend" not in args.command:
        common += ["--ddp-backend", "legacy_ddp"]
    environment = os.environ | CPU_ENVIRONMENT | {"OMP_NUM_THREADS": str(args.threads), "PATH": search_path()}
    ranks = range(args.first_rank, args.first_rank + args.workers)
    return [
        subprocess.Popen(
            [*args.command, *common, "--distributed-rank", str(rank)], env=environment, preexec_fn=begin_worker
        )
        for rank in ranks
    ]


def search_path() -> str:
    """Commands of this Python's environment come first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def begin_worker() -> None:
    """In a worker: be killed when the launcher is, which cannot do it then; two runs would share a --save-dir."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def supervise(workers: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; the exit status of the first that failed, as a shell has it, or 0."""
    stopped: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(time.monotonic())
        for worker in workers:
            worker.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    while any(worker.poll() is None for worker in workers):
        failed = [worker for worker in workers if worker.poll()]
        overdue = stopped and time.monotonic() - stopped[0] > GRACE_SECONDS
        if (failed and not stopped) or overdue:
            for worker in workers:
                worker.kill()
            return exit_status(failed or workers)
        time.sleep(POLL_SECONDS)
    return exit_status(workers)


def exit_status(workers: list[subprocess.Popen[bytes]]) -> int:
    codes = [worker.wait() for worker in workers]
    code = next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    main()

"""Start the workers of a training on CPUs, and attend to them until the last has ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fairseq_ats.cli.environment import CPU_ENVIRONMENT

POLL_SECONDS = 0.1
# Kill a worker that has not ended after this time, counted from the signal to stop.
GRACE_SECONDS = 10.0
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Workers:
    """The workers of this machine.

    Args:
        command: what each of them runs; it gets fairseq's options for several workers.
        count: processes on this machine.
        threads: CPU threads of each.
        world_size: workers on all machines.
        first_rank: rank of this machine's first worker.
        init_method: address at which the workers find each other.
    """

    command: Sequence[str]
    count: int
    threads: int
    world_size: int
    first_rank: int
    init_method: str

    def start(self) -> list[subprocess.Popen[bytes]]:
        """Start all workers."""
        common = ["--distributed-world-size", str(self.world_size), "--distributed-init-method", self.init_method]
        common += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
        if "--ddp-backend" not in self.command:
            common += ["--ddp-backend", "legacy_ddp"]
        environment = os.environ | CPU_ENVIRONMENT | {"OMP_NUM_THREADS": str(self.threads), "PATH": search_path()}
        return [
            subprocess.Popen(
                [*self.command, *common, "--distributed-rank", str(rank)], env=environment, preexec_fn=_begin_worker
            )
            for rank in range(self.first_rank, self.first_rank + self.count)
        ]

    def run(self) -> int:
        """Start all workers, wait for all, and return their exit status."""
        # Hold signals back until all workers are there to receive them.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        return _supervise(self.start())


def search_path() -> str:
    """Return PATH with the folder of this Python's commands in front."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _begin_worker() -> None:
    """Have the kernel kill this worker when the launcher is killed: it would share its folder with the next launch."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def _supervise(workers: list[subprocess.Popen[bytes]]) -> int:
    """Pass signals on and wait; return the exit status of the first worker that failed, as a shell has it, or 0."""
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
            return _exit_status(failed or workers)
        time.sleep(POLL_SECONDS)
    return _exit_status(workers)


def _exit_status(workers: list[subprocess.Popen[bytes]]) -> int:
    codes = [worker.wait() for worker in workers]
    code = next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code

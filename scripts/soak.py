#!/usr/bin/env python3
"""Watch a long training: memory, open files and processes stay flat, and the log has no warning.

    python scripts/soak.py OUTPUT.md -- COMMAND...

COMMAND is run, and once a second its process is looked at in /proc (Linux). The first quarter of the time is warm-up;
after it, the middle (second quarter) is compared with the end (last quarter). Writes what was measured to OUTPUT.md,
and everything that the command printed to OUTPUT.log. Exit status 1 if the command failed or something grew.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Allowed growth of the median of memory. One update's batch is a few percent larger than another's, and what a loading
# process shares with the training when it is forked is copied, little by little, as the training writes to it.
MEMORY_GROWTH = 0.03
# Allowed growth of open files: a look finds a loading process at one moment or another of its start. One left behind
# by each validation of scripts/soak.sh, or by each checkpoint, would be four.
FILES_GROWTH = 3
INTERVAL = 1.0  # seconds
SHUT_DOWN = 5.0  # seconds at the end, in which a process closes what it has open: not looked at
FEWEST_SAMPLES = 16  # four in each quarter

WARNING = re.compile(r"\w*Warning: |\| (WARNING|ERROR) \||^(WARNING|ERROR):|Traceback")


@dataclass(frozen=True)
class Sample:
    """One look at a process.

    Args:
        seconds: since its start.
        memory: of the process and all below it, in bytes; what they share counts once (proportional set size).
        files: open file descriptors, but for those of batches.
        processes: the process and all below it.
    """

    seconds: float
    memory: int
    files: int
    processes: int


def look_at(pid: int, seconds: float) -> Sample:
    """Raises OSError when the process has gone."""
    memory = [_memory(pid)]
    for child in _below(pid):
        with suppress(OSError):  # ended meanwhile
            memory.append(_memory(child))
    return Sample(seconds, sum(memory), _files(pid), len(memory))


def _files(pid: int) -> int:
    """Without batches on their way from a loading process, tensors in shared memory: up to a hundred at a time."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            count += not os.readlink(f"/proc/{pid}/fd/{name}").startswith("/dev/shm/")
    return count


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _below(pid: int) -> list[int]:
    """Children, their children, and so on; none of a process that has gone."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children + [grandchild for child in children for grandchild in _below(child)]


def middle_and_end(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The second and the last quarter.

    Raises:
        ValueError: too few samples to compare.
    """
    if len(samples) < FEWEST_SAMPLES:
        raise ValueError(f"{len(samples)} samples; needed: {FEWEST_SAMPLES}, one a second; run more updates")
    quarter = len(samples) // 4
    return samples[quarter : 2 * quarter], samples[-quarter:]


def growth_problems(samples: Sequence[Sample]) -> list[str]:
    """One sentence for each quantity that grew."""
    middle, end = middle_and_end(samples)
    problems = []
    before, after = (statistics.median(sample.memory for sample in part) for part in (middle, end))
    if after > before * (1 + MEMORY_GROWTH):
        problems.append(f"memory grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB")
    for name, allowed in (("files", FILES_GROWTH), ("processes", 0)):
        # The most, with an epoch's loading process, which comes and goes, and a validation's.
        before, after = (max(getattr(sample, name) for sample in part) for part in (middle, end))
        if after > before + allowed:
            problems.append(f"open {name} grew from {before} to {after}")
    return problems


def warnings_in(log: str) -> list[str]:
    """Lines of a log that warn."""
    return [line for line in log.splitlines() if WARNING.search(line)]


def watch(command: Sequence[str], log: Path) -> tuple[list[Sample], int]:
    """Samples of the command's process, and its exit status."""
    samples = []
    with log.open("wb") as output:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(OSError, IndexError):  # it is ending
                samples.append(look_at(process.pid, time.monotonic() - start))
            time.sleep(INTERVAL)
    return samples[: -round(SHUT_DOWN / INTERVAL)], process.returncode


def report(command: Sequence[str], samples: Sequence[Sample], problems: Sequence[str], warned: Sequence[str]) -> str:
    """Markdown: the command's process in eight equal parts of the time."""
    lines = [
        "# A long run",
        "",
        f"`{shlex.join(command)}`",
        "",
        f"{samples[-1].seconds:.0f} s, {len(samples)} samples; {platform.machine()}, "
        f"Python {platform.python_version()}, {platform.platform()}",
        "",
        "| seconds | memory, median, MiB | most | open files | processes |",
        "|---:|---:|---:|---:|---:|",
    ]
    for part in range(8):
        some = samples[part * len(samples) // 8 : (part + 1) * len(samples) // 8]
        median, most = statistics.median(s.memory for s in some) / 2**20, max(s.memory for s in some) / 2**20
        files, processes = ([getattr(s, name) for s in some] for name in ("files", "processes"))
        lines.append(
            f"| to {some[-1].seconds:.0f} | {median:.1f} | {most:.1f} "
            f"| {min(files)} to {max(files)} | {min(processes)} to {max(processes)} |"
        )
    said = "; ".join(problems) or f"Nothing grew (memory: by {MEMORY_GROWTH:.0%} or more)"
    lines += ["", f"Warnings in the log: {len(warned)}. {said} from the second quarter to the last."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT.md", help="what was measured")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    args = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").is_file():
        parser.error("needs Linux: it reads /proc")
    log = args.output.with_suffix(".log")
    samples, status = watch(args.command, log)
    if status != 0:
        sys.exit(f"soak: the command ended with status {status}; the end of {log}:\n{log.read_text()[-2000:]}")
    try:
        problems, warned = growth_problems(samples), warnings_in(log.read_text())
    except ValueError as error:
        sys.exit(f"soak: {error}")
    text = report(args.command, samples, problems, warned)
    args.output.write_text(text)
    print(text)
    if problems or warned:
        sys.exit("\n".join(["soak: not flat, or not quiet", *problems, *warned]))


if __name__ == "__main__":
    main()

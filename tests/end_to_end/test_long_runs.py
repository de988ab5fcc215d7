"""What a training leaves behind: nothing after an epoch, and memory, open files and processes that stay flat."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.fixtures import ROOT
from tests.support import instrumented
from tests.support.command_line import FAIRSEQ_ATS, train_command

WARNING = re.compile(r"\w*Warning: |\| (WARNING|ERROR) \||^(WARNING|ERROR):|Traceback")
Look = tuple[int, int, int]  # memory in bytes, open files, processes


@pytest.mark.parametrize("buffer", ["0", "10"])
def test_epochs_and_validations_leave_nothing_behind(toy_data: Path, tmp_path: Path, buffer: str) -> None:
    """Whatever Python's garbage collector does: batches, the processes that loaded them, handlers for the log file."""
    options = ["--max-epoch", "5", "--num-workers", "1", "--data-buffer-size", buffer, "--no-save"]
    options += ["--log-file", str(tmp_path / "train.log")]
    command = train_command(toy_data, tmp_path, 10**6, "--alternate", "--max-tokens", "1200", *options)
    watch = partial(instrumented.record_left_overs, tmp_path / "records.json")
    assert instrumented.finish(instrumented.start(command, tmp_path / "log", watch)) == [0], (
        tmp_path / "log"
    ).read_text()
    processes, kept = zip(*json.loads((tmp_path / "records.json").read_text()), strict=True)
    assert len(processes) == 5
    # That of the epoch, which is over but for its last words.
    assert max(processes) <= 1, processes
    # Two each of training and validation, since a new one is made while that before it is still held.
    assert max(kept) <= 4, kept
    # Each handler that an epoch had left behind would have written the last epoch's lines once more.
    ends = re.findall(r"^epoch (\d+) \| loss .*$", (tmp_path / "train.log").read_text(), re.MULTILINE)
    assert ends == ["001", "002", "003", "004", "005"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="needs Linux: it reads /proc")
def test_a_long_training_stays_flat(toy_data: Path, tmp_path: Path) -> None:
    """2,000 updates with 8 validations and saves: the last quarter of the time is as the second, and nothing warns."""
    small = "--max-update 2000 --max-tokens 500 --encoder-layers 1 --decoder-layers 1 --num-workers 1".split()
    small += (
        "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64".split()
    )
    small += "--save-interval-updates 250 --validate-interval-updates 250 --keep-interval-updates 2".split()
    command = [*FAIRSEQ_ATS, "train", str(ROOT / "configs/demo.yaml"), str(toy_data)]
    command += ["--save-dir", str(tmp_path / "run"), "--threads", "1", *small]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        looks = list(looks_at(process))
    assert process.returncode == 0, log.read_text()[-2000:]
    assert [line for line in log.read_text().splitlines() if WARNING.search(line)] == []
    assert len(looks) >= 16
    quarter = len(looks) // 4
    middle, end = (list(zip(*part, strict=True)) for part in (looks[quarter : 2 * quarter], looks[-quarter:]))
    # One batch is larger than another; what a loading process shares when it is forked is copied little by little.
    assert statistics.median(end[0]) < 1.03 * statistics.median(middle[0])
    # A look finds a loading process at some moment of its start. A file left behind by each validation would be four.
    assert max(end[1]) <= max(middle[1]) + 3
    assert max(end[2]) <= max(middle[2])


def looks_at(process: subprocess.Popen) -> Iterator[Look]:
    """Look at a process twice a second while it trains, but not in its last five seconds, when it closes its files."""
    recent: list[Look] = []
    while process.poll() is None:
        with suppress(OSError, StopIteration):  # it is starting, or has ended
            recent.append(look_at(process.pid))
        if len(recent) > 10:
            yield recent.pop(0)
        time.sleep(0.5)


def look_at(pid: int) -> Look:
    """Look at a process and all below it; what they share counts once, and batches on their way do not count."""
    memory, processes = 0, [pid, *below(pid)]
    for one in processes:
        with suppress(OSError):  # ended meanwhile
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            memory += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    files = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            path = os.readlink(f"/proc/{pid}/fd/{name}")
            files += not path.startswith("/dev/shm/")
    return memory, files, len(processes)


def below(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    children: list[int] = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children + [grandchild for child in children for grandchild in below(child)]

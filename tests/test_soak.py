"""What scripts/soak.sh measures, and what it takes for growth; the long run itself is in results/soak.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests import instrumented
from tests.command_line import train_command
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import soak


def samples(**growth: float) -> list[soak.Sample]:
    """A run of 40 seconds; ``files=2`` has two more open files at its end."""
    flat = soak.Sample(0.0, 300 * 2**20, 40, 2)
    return [
        replace(
            flat,
            seconds=float(second),
            **{name: round(getattr(flat, name) + more * second / 39) for name, more in growth.items()},
        )
        for second in range(40)
    ]


@pytest.mark.parametrize(
    ("growth", "said"),
    [
        ({}, []),
        ({"memory": 5 * 2**20}, []),
        ({"memory": 20 * 2**20}, ["memory grew from"]),
        ({"files": 3}, []),
        ({"files": 8}, ["open files grew from 44 to 48"]),
        ({"processes": 2}, ["open processes grew from 3 to 4"]),
    ],
)
def test_growth(growth: dict[str, float], said: list[str]) -> None:
    problems = soak.growth_problems(samples(**growth))
    assert len(problems) == len(said)
    assert all(problem.startswith(text) for problem, text in zip(problems, said, strict=True))
    with pytest.raises(ValueError, match="15 samples; needed: 16"):
        soak.growth_problems(samples()[:15])


def test_warnings_in_a_log() -> None:
    quiet = "2026-11-21 13:15:58 | INFO | train | loss 9.4, no warning\nThe warning sign"
    loud = ["a.py:3: UserWarning: old", "2026 | WARNING | fairseq.trainer | OOM", "Traceback (most recent call last):"]
    assert soak.warnings_in("\n".join([quiet, *loud])) == loud


def test_a_process_is_seen(tmp_path: Path) -> None:
    program = f"""
import subprocess, sys
files = [open({str(tmp_path / "file")!r}, "w") for _ in range(9)]
data = bytearray(b"x" * 2**26)
child = subprocess.Popen(["sleep", "60"])
print(flush=True)
sys.stdin.read()
child.kill()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        seen = soak.look_at(process.pid, 1.0)
    finally:
        process.communicate(b"")
    assert seen.processes == 2
    assert 3 + 9 <= seen.files <= 3 + 9 + 2
    assert 2**26 < seen.memory < 2**26 + 2**25
    with pytest.raises(OSError, match=str(process.pid)):
        soak.look_at(process.pid, 2.0)
    assert os.getpid() != process.pid


@pytest.mark.parametrize("buffer", ["0", "10"])
def test_epochs_and_validations_leave_nothing_behind(toy_data: Path, tmp_path: Path, buffer: str) -> None:
    """Whatever Python's garbage collector does: their batches, and the processes that loaded them."""
    options = ["--max-epoch", "5", "--num-workers", "1", "--data-buffer-size", buffer, "--no-save"]
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

"""Train one run, in the folder ``RUNS/RECIPE/ROW/seedN``: fairseq's checkpoints, and beside them

``train.log``      fairseq's ``--log-file``, which tells whether the training is finished
``starts.jsonl``   a line for each start or resumption: commit, command, options and hardware
``console.log``    all that the training printed
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fairseq_ats.training.log_file import TrainingLog
from scripts.tables.description import ROOT, Recipe, shown

# The states of a run.
NEW, INTERRUPTED, FINISHED = "not started", "interrupted", "finished"


class BusyError(Exception):
    """Another process trains the run."""


@dataclass(frozen=True)
class Run:
    """A row with a seed."""

    recipe: Recipe
    row: str
    seed: int
    runs: Path

    @property
    def folder(self) -> Path:
        return self.runs / self.recipe.name / self.row / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder / "train.log"

    def __str__(self) -> str:
        return f"{self.recipe.name}/{self.row} seed {self.seed}"

    def state(self) -> str:
        if not self.log.is_file():
            return NEW
        return FINISHED if TrainingLog.read(self.log).is_finished else INTERRUPTED

    def command(self, data: Path, threads: int, options: Sequence[str], workers: int = 1) -> list[str]:
        """Return the command, as typed in the repository's root; fairseq resumes from ``checkpoint_last.pt``."""
        launch = ["fairseq-ats", "launch", "--workers", str(workers), "--threads", str(threads)] if workers > 1 else []
        config, data, folder = (str(shown(path)) for path in (self.recipe.config(self.row), data, self.folder))
        command = [*launch, "fairseq-ats", "train", config, data, "--save-dir", folder]
        return [*command, "--threads", str(threads), "--seed", str(self.seed), *options]

    def starts(self) -> list[dict[str, Any]]:
        """Return the notes of all starts; none if another program trained the run."""
        path = self.folder / "starts.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def note_start(
        self, command: str, options: Sequence[str], hardware: str, needs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Note a start, or a resumption.

        Args:
            options: options of fairseq beside those of the row.
            needs: what the run got of other runs.
        """
        start = {"commit": commit(), "command": command, "options": list(options), "hardware": hardware}
        start |= {"needs": dict(needs)} if needs else {}
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(start) + "\n")

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Lock the run; yield a descriptor for the training, so that the lock holds until both processes end.

        Raises:
            BusyError: another process holds the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError("another process is training it") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def train(command: Sequence[str], console: Path, lock: int) -> int:
    """Run a training to its end, and return its exit status."""
    with console.open("ab") as output:
        return subprocess.run(
            [sys.executable, "-m", "fairseq_ats.cli", *command[1:]],
            cwd=ROOT,
            env=os.environ | _one_gpu(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        ).returncode


def _one_gpu() -> dict[str, str]:
    """Return the variable that hides all GPUs but the first: fairseq would take all, and a run of the paper has one."""
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" after it if files differ from it; None if there is no checkout.

    Files under results/ do not count: a table fills them while it is made.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

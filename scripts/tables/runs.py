"""The folder of one run, and its training: ``RUNS/RECIPE/ROW/seedN`` with fairseq's checkpoints, and beside them

``train.log``     fairseq's ``--log-file``: whether the training came to its end is read off it
``started.json``  where the run comes from: commit, command, options and hardware, also of each time that it was resumed
``console.log``   all that the training printed
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_log import TrainingLog

from fairseq_ats.files import written_whole
from scripts.tables.description import ROOT, Recipe, shown

# What can be known of a run's folder.
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

    def command(self, data: Path, threads: int, options: Sequence[str]) -> list[str]:
        """As a user would type it in the repository's root; fairseq resumes from ``checkpoint_last.pt`` by itself."""
        config, data, folder = (str(shown(path)) for path in (self.recipe.config(self.row), data, self.folder))
        command = ["python", "scripts/train.py", config, data, "--save-dir", folder]
        return [*command, "--threads", str(threads), "--seed", str(self.seed), *options]

    def started(self) -> dict[str, Any]:
        """What is known of the start; nothing if another program started the run and left no note."""
        path = self.folder / "started.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def note_start(self, command: str, options: Sequence[str], hardware: str) -> None:
        """The first start, or one more at which the run went on.

        Args:
            options: beside those of the row.
        """
        start = {"commit": commit(), "options": list(options), "hardware": hardware}
        if self.state() == NEW:
            note = start | {"command": command, "resumed": []}
        else:
            note = self.started()
            note["resumed"] = [*note.get("resumed", []), start]
        with written_whole(self.folder / "started.json") as path:
            path.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[int]:
        """A file descriptor to hand to the training: the lock is held until both processes have ended.

        Raises:
            BusyError: somebody has it.
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


def train(command: Sequence[str], console: Path, lock: int, environment: dict[str, str]) -> int:
    """Run a training to its end; the exit status."""
    with console.open("ab") as output:
        return subprocess.run(
            [sys.executable, *command[1:]],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
        ).returncode


def commit() -> str | None:
    """Of the checkout, with "-dirty" after it if files differ from it; None where there is no checkout.

    But for files under results/, which a table fills while it is made.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None

"""Run fairseq's real commands as a user would, from the root of a plain checkout.

Each command is a process of its own, of tests/support/forking.py. What runs in it is the command's entry point.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.fixtures import OUR_OPTIMIZER, OUR_TASK, TINY_ARCH, TRAINING
from tests.support.forking import become, fork_server

# ``fairseq-ats``, also where it is not installed.
FAIRSEQ_ATS = [sys.executable, "-m", "fairseq_ats.cli"]
PLUGIN = ["--user-dir", "fairseq_ats", "--task", OUR_TASK]
BLEU = ["--eval-bleu", "--eval-bleu-remove-bpe", "sentencepiece", "--eval-bleu-args", '{"beam": 1, "max_len_b": 12}']


class Command:
    """A command that has been started; what it prints goes to a file."""

    def __init__(self, command: list[str], stdin: str, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self._output = Path(self._folder.name) / "output"
        given = Path(self._folder.name) / "input"
        given.write_text(stdin)
        self._process = fork_server().Process(target=become, args=(command, str(given), str(self._output), environment))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text() if self._output.exists() else ""

    def wait(self, seconds: float = 300) -> str:
        """Everything that it printed, when it has ended."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output()[-4000:]}")
        return self.output()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def start(command: list[str], stdin: str = "", **environment: str) -> Command:
    return Command(command, stdin, environment)


def run(command: list[str], stdin: str = "", fails: bool = False) -> str:
    """Everything that the command printed; its exit status must be as expected."""
    process = start(command, stdin)
    output = process.wait()
    assert (process.returncode != 0) == fails, output[-4000:]
    return output


def train_command(data: Path, save_dir: Path, updates: int, *extra: str) -> list[str]:
    """``fairseq-train`` with alternation; a later option overrides an earlier one."""
    command = ["fairseq-train", str(data), *PLUGIN, "--optimizer", OUR_OPTIMIZER, *TINY_ARCH, *TRAINING]
    command += ["--max-update", str(updates), "--save-dir", str(save_dir), "--no-epoch-checkpoints"]
    return [*command, *extra]


def train(data: Path, save_dir: Path, updates: int, *extra: str, fails: bool = False) -> str:
    return run(train_command(data, save_dir, updates, *extra), fails=fails)


def hypotheses(output: str) -> dict[int, str]:
    """Sentence number → tokens, of ``fairseq-generate`` or ``fairseq-interactive``."""
    return {int(n): text for n, text in re.findall(r"^H-(\d+)\t[-\d.]+\t(.*)$", output, re.MULTILINE)}

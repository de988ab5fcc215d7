"""Run fairseq's real commands as a user would, from the root of a plain checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import OUR_OPTIMIZER, OUR_TASK, ROOT, TINY_ARCH, TRAINING

PLUGIN = ["--user-dir", "fairseq_ats", "--task", OUR_TASK]
BLEU = ["--eval-bleu", "--eval-bleu-remove-bpe", "sentencepiece", "--eval-bleu-args", '{"beam": 1, "max_len_b": 12}']


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    tool = Path(sys.executable).parent / command[0]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""} | environment
    return subprocess.Popen(
        [sys.executable, str(tool), *command[1:]],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(command: list[str], stdin: str = "", fails: bool = False) -> str:
    """Everything that the command printed; its exit status must be as expected."""
    process = start(command)
    output, _ = process.communicate(stdin, timeout=300)
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

"""The one process from which every process of the tests is forked, and what a command does there.

It has imported fairseq, which takes longer than most commands of the tests do, and not the plugin, so that a command
finds the plugin as it does for a user. There is one for all tests, since multiprocessing has one fork server, and the
first use decides what that has imported.
"""

from __future__ import annotations

import gc
import importlib.metadata
import multiprocessing
import os
import runpy
import sys
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests import STAND_INS

# Not from tests/fixtures.py, which imports the plugin.
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("train", "generate", "interactive", "validate", "hydra_train")
# Imported by torch.optim, for BLEU and by the plugin, when a command has begun.
LATE_IMPORTS = ("torch._dynamo", "sacrebleu", "sentencepiece", "filelock", "filecmp", "tests.support.preloaded")


@cache
def fork_server() -> ForkServerContext:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*(f"fairseq_cli.{tool}" for tool in TOOLS), *LATE_IMPORTS])
    return context


def become(command: list[str], stdin: str, output: str, environment: dict[str, str]) -> None:
    """In a new process: become the command; what it prints goes to the file ``output``.

    Args:
        command: a console script and its arguments, or ``-m``, a module of the checkout and its arguments.
    """
    for stream, path, flags in ((0, stdin, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        os.dup2(os.open(path, flags, 0o600), stream)
    os.dup2(1, 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, 1, "utf-8") for n, mode in ((0, "r"), (1, "w"), (2, "w")))
    as_in_a_new_process()
    # For the processes that the command starts.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(STAND_INS)]))
    os.environ.update(environment)
    sys.warnoptions.clear()  # pytest's
    sys.dont_write_bytecode = False  # the first process that compiles the plugin does so for all
    os.chdir(ROOT)
    sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT))]  # pytest's; --user-dir is how it is found
    status = None
    try:
        if command[0] == "-m":
            sys.path.insert(0, str(ROOT))
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            (entry_point,) = importlib.metadata.entry_points(group="console_scripts", name=command[0])
            status = entry_point.load()()
    finally:
        sys.stdout.flush()
    sys.exit(status)


def as_in_a_new_process() -> None:
    """Undo what a start by the fork server leaves behind.

    Its start method, by which each data loader would start one more such server (multiprocessing/spawn.py,
    ``get_preparation_data``), and that a daemon may not have children. What is imported is there to stay, so that the
    garbage collection of each epoch need not look at it.
    """
    gc.freeze()
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.current_process()._config.pop("daemon", None)

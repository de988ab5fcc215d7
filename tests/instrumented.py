"""``fairseq-train`` in real processes that kill themselves at a chosen moment, are disturbed, or are watched.

They are forked from a server that has imported fairseq once, which spares each of them seconds; from there on they run
the command's own entry point. What is done to a process is a *change*: a function that runs in it before the command.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from fairseq import file_io
from fairseq.trainer import Trainer
from fairseq_cli import train as training

from fairseq_ats import TranslationWithPartitionedModelTask

Change = Callable[[], None]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.instrumented"])


def start(command: Sequence[str], log: Path, *changes: Change) -> BaseProcess:
    """``fairseq-train`` with these arguments; what it prints goes to ``log``."""
    process = _server.Process(target=_run, args=(list(command), log, changes), daemon=True)
    process.start()
    return process


def finish(*processes: BaseProcess) -> list[int | None]:
    """Exit codes; that of a process killed by a signal is the signal's number, negative."""
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes]


def _run(command: list[str], log: Path, changes: Sequence[Change]) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = command
    for change in changes:
        change()
    training.cli_main()


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Changes: when the process kills itself.


def kill_in_update(number: int) -> None:
    """When the optimizer has moved the weights in update ``number``, and nothing else has happened."""
    step = TranslationWithPartitionedModelTask.optimizer_step

    def killing(task: Any, optimizer: Any, model: Any, update_num: int) -> None:
        step(task, optimizer, model, update_num)
        if update_num == number:
            kill_now()

    TranslationWithPartitionedModelTask.optimizer_step = killing


def kill_in_validation(batch: int) -> None:
    """At the ``batch``-th batch that this process validates."""
    countdown, validate = _countdown(batch - 1), TranslationWithPartitionedModelTask.valid_step
    TranslationWithPartitionedModelTask.valid_step = _calling_first(countdown, validate)


def kill_in_write(number: int) -> None:
    """In the ``number``-th write of this process to a checkpoint, when half of it is written."""
    countdown = _countdown(number - 1)

    class Killing:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> int:
            half = memoryview(data)[: len(data) // 2]
            countdown(lambda: (self.file.write(half), self.file.flush()))
            return self.file.write(data)

        def __enter__(self) -> Killing:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    file_io.open = lambda path, mode, **options: Killing(open(path, mode))  # noqa: SIM115  Killing closes it


def kill_in_copy(number: int) -> None:
    """In the ``number``-th copy of a checkpoint, when half of it is copied."""
    countdown, copy = _countdown(number - 1), file_io.shutil.copyfile

    def killing(source: str, target: str) -> str:
        countdown(lambda: Path(target).write_bytes(Path(source).read_bytes()[: os.path.getsize(source) // 2]))
        return copy(source, target)

    file_io.shutil.copyfile = killing


def kill_in_call(number: int) -> None:
    """At the ``number``-th call of a Python function after the first epoch began."""
    remaining = iter(range(number))

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and next(remaining, None) is None:
            kill_now()

    begin = Trainer.begin_epoch
    Trainer.begin_epoch = lambda trainer, epoch: (sys.setprofile(count), begin(trainer, epoch))


def _countdown(calls: int) -> Callable[..., None]:
    """A function that kills at the call after ``calls`` calls, after a last thing to do."""
    remaining: Iterator[int] = iter(range(calls))

    def count(last: Callable[[], Any] = lambda: None) -> None:
        if next(remaining, None) is None:
            last()
            kill_now()

    return count


def _calling_first(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **options: Any) -> Any:
        first()
        return function(*arguments, **options)

    return both

"""``fairseq-train`` in real processes that kill themselves at a chosen moment, are disturbed, or are watched.

They are forked as tests/support/forking.py has it, and run the command's own entry point. What is done to a process is
a *change*: a function that runs in it before the command.
"""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from fairseq import file_io
from fairseq.data.iterators import EpochBatchIterator
from fairseq.logging import progress_bar
from fairseq.models import distributed_fairseq_model
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer
from fairseq_cli import train as training

from fairseq_ats.options.checks import host as option_checks
from fairseq_ats.schemes.exchange import Exchange
from fairseq_ats.training.partitioned_task import PartitionedTask
from tests.support.forking import as_in_a_new_process, fork_server

Change = Callable[[], None]


def start(command: Sequence[str], log: Path, *changes: Change) -> BaseProcess:
    """``fairseq-train`` with these arguments; what it prints goes to ``log``."""
    process = fork_server().Process(target=_run, args=(list(command), log, changes), daemon=True)
    process.start()
    return process


def start_workers(command: Sequence[str], folder: Path, *changes: Sequence[Change]) -> list[BaseProcess]:
    """One worker for each of ``changes``; the log of each is RANK.log in the folder."""
    store = folder / f"store{len(list(folder.glob('store*')))}"
    common = ["--distributed-world-size", str(len(changes)), "--distributed-init-method", f"file://{store}"]
    common += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
    return [
        start([*command, *common, "--distributed-rank", str(rank)], folder / f"{rank}.log", *of_rank)
        for rank, of_rank in enumerate(changes)
    ]


def finish(*processes: BaseProcess) -> list[int | None]:
    """Exit codes; that of a process killed by a signal is the signal's number, negative."""
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes]


def _run(command: list[str], log: Path, changes: Sequence[Change]) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    as_in_a_new_process()
    torch.set_num_threads(1)
    sys.argv = command
    for change in changes:
        change()
    training.cli_main()
    progress_bar._close_writers()  # at exit in a command; a child of multiprocessing leaves that out


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Changes: what goes wrong, and where it may.


def run_out_of_memory(update: int) -> None:
    """In the forward pass of ``update``, once: fairseq tells by the words of the error (fairseq/trainer.py:862)."""
    step, countdown = TranslationTask.train_step, iter([True])

    def failing(task: Any, sample: Any, model: Any, criterion: Any, optimizer: Any, number: int, *rest: Any) -> Any:
        if number == update and next(countdown, False):
            raise RuntimeError("CUDA out of memory, as if")
        return step(task, sample, model, criterion, optimizer, number, *rest)

    TranslationTask.train_step = failing


def fail(update: int) -> None:
    """In the forward pass of ``update``, by an error that makes fairseq save crash.pt (fairseq/trainer.py:869)."""
    step = TranslationTask.train_step

    def failing(task: Any, sample: Any, model: Any, criterion: Any, optimizer: Any, number: int, *rest: Any) -> Any:
        if number == update:
            raise ValueError("as if it failed")
        return step(task, sample, model, criterion, optimizer, number, *rest)

    TranslationTask.train_step = failing


def overflow(update: int) -> None:
    """An infinite gradient in ``update``, once."""
    step, countdown = TranslationTask.train_step, iter([True])

    def failing(task: Any, sample: Any, model: Any, criterion: Any, optimizer: Any, number: int, *rest: Any) -> Any:
        result = step(task, sample, model, criterion, optimizer, number, *rest)
        if number == update and next(countdown, False):
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf
        return result

    TranslationTask.train_step = failing


def take_this_for_a_gpu() -> None:
    """Run on a CPU what the plugin refuses there, as fairseq's handling of an overflow needs CUDA.

    Loss scaling and skipped updates are then those of a GPU; autocast, of ``--amp``, is not.
    """
    option_checks.trains_on_cpu = lambda cfg: False
    torch.Tensor.cuda = lambda tensor: tensor
    torch.cuda.amp.GradScaler = partial(torch.amp.GradScaler, "cpu")


def set_common(**values: bool) -> None:
    """Options of fairseq's group ``common`` as ``fairseq-hydra-train`` takes them."""
    main = training.main

    def with_values(cfg: Any) -> None:
        cfg.common.update(values)
        main(cfg)

    training.main = with_values


def stand_in_for_wandb(path: Path) -> None:
    """Write down, line by line, what fairseq sends to Weights & Biases."""

    def write(*content: Any) -> None:
        with path.open("a") as file:
            file.write(json.dumps(content) + "\n")

    progress_bar.wandb = SimpleNamespace(
        init=lambda **options: write("init", options["project"]),
        log=lambda values, step: write(step, values),
        config=SimpleNamespace(update=lambda config: None),
    )


def use_pytorch_ddp_on_cpu() -> None:
    """Without the CUDA device that fairseq hands to it (fairseq/models/distributed_fairseq_model.py:62)."""
    option_checks.trains_on_cpu = lambda cfg: False
    ddp = distributed_fairseq_model.DistributedDataParallel

    def on_cpu(module: torch.nn.Module, device_ids: Any, output_device: Any, **options: Any) -> torch.nn.Module:
        return ddp(module, **options)

    distributed_fairseq_model.DistributedDataParallel = on_cpu


# Changes: what is watched.


def recorded(folder: Path) -> list[Any]:
    """What :func:`record_updates` or :func:`record_models` has recorded, a file each, on the CPU."""
    return [torch.load(path, map_location="cpu") for path in sorted(folder.iterdir())]


def _record(folder: Path, what: object) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(what, folder / f"{len(list(folder.iterdir())):04}.pt")


def record_updates(folder: Path) -> None:
    """After each call of fairseq's train_step: the number of updates, and all that the optimizer may move."""
    step = Trainer.train_step

    def recording(trainer: Trainer, samples: Any, raise_oom: bool = False) -> Any:
        result = step(trainer, samples, raise_oom)
        adam = trainer.optimizer.optimizer
        held = [p for group in adam.param_groups for p in group["params"]]
        moved = {}
        for (name, parameter), master in zip(trainer.get_model().named_parameters(), held, strict=True):
            state = adam.state[master]
            moved[name] = {"weight": parameter.detach(), "master": master.detach(), "step": torch.tensor(state["step"])}
            moved[name] |= {moment: state[moment] for moment in ("exp_avg", "exp_avg_sq")}
        empty = [sample is None or len(sample) == 0 for sample in samples]
        _record(folder, {"updates": trainer.get_num_updates(), "moved": moved, "empty": empty})
        return result

    Trainer.train_step = recording


def record_collectives(path: Path) -> None:
    """The name and the size of each collective of the first worker, in numbers."""
    records: list[tuple[str, int]] = []

    def record(name: str) -> None:
        collective = getattr(torch.distributed, name)

        def recording(first: Any, *rest: Any, **options: Any) -> Any:
            if torch.distributed.get_rank() == 0:
                records.append((name, (rest[0] if isinstance(first, list) else first).numel()))
                path.write_text(json.dumps(records))
            return collective(first, *rest, **options)

        setattr(torch.distributed, name, recording)

    record("all_reduce")
    record("all_gather")


def record_models(folder: Path) -> None:
    """After each update, and after a validation has begun: the state of the model, and the momentum of SGD."""
    step, begin = Trainer.train_step, Trainer.begin_valid_epoch

    def record(trainer: Trainer, what: str) -> None:
        model, sgd = trainer.get_model(), trainer.optimizer.optimizer
        tensors = dict(model.state_dict())
        for name, p in model.named_parameters():
            tensors |= {f"{name}.{kind}": value for kind, value in sgd.state[p].items()}
        _record(folder, (what, {name: value for name, value in tensors.items() if value is not None}))

    def recording_step(trainer: Trainer, samples: Any, raise_oom: bool = False) -> Any:
        result = step(trainer, samples, raise_oom)
        record(trainer, "update")
        return result

    def recording_begin(trainer: Trainer, epoch: int) -> None:
        begin(trainer, epoch)
        record(trainer, "validation")

    Trainer.train_step, Trainer.begin_valid_epoch = recording_step, recording_begin


def record_left_overs(path: Path) -> None:
    """At the start of each validation: how many loading processes and how many epochs' batches there are."""
    begin, records = Trainer.begin_valid_epoch, []

    def recording(trainer: Trainer, epoch: int) -> None:
        kept = sum(isinstance(one, EpochBatchIterator) for one in gc.get_objects())
        records.append((len(multiprocessing.active_children()), kept))
        path.write_text(json.dumps(records))
        begin(trainer, epoch)

    gc.disable()
    Trainer.begin_valid_epoch = recording


# Changes: when the process kills itself.


def kill_in_update(number: int) -> None:
    """When the optimizer has moved the weights in update ``number``, and nothing else has happened."""
    step = PartitionedTask.optimizer_step

    def killing(task: Any, optimizer: Any, model: Any, update_num: int) -> None:
        step(task, optimizer, model, update_num)
        if update_num == number:
            kill_now()

    PartitionedTask.optimizer_step = killing


def kill_in_validation(batch: int) -> None:
    """At the ``batch``-th batch that this process validates."""
    countdown, validate = _countdown(batch - 1), PartitionedTask.valid_step
    PartitionedTask.valid_step = _calling_first(countdown, validate)


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


def kill_in_exchange() -> None:
    """In the first exchange of parts: this worker has sent nothing, and the others wait for it."""
    Exchange.__call__ = _calling_first(_countdown(0), Exchange.__call__)


def kill_after_save(number: int) -> None:
    """When fairseq has saved update ``number``, before the plugin copies what it saved."""
    post_save = PartitionedTask.post_save

    def killing(task: Any, checkpoint: str, num_updates: int) -> None:
        if num_updates == number:
            kill_now()
        post_save(task, checkpoint, num_updates)

    PartitionedTask.post_save = killing


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

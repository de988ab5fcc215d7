"""``fairseq-ats launch``: workers on CPUs, and what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairseq_ats.cli import launch as launcher
from tests import STAND_INS
from tests.fixtures import ROOT
from tests.support.checkpoints import check_mask
from tests.support.command_line import FAIRSEQ_ATS, train_command

LAUNCH = [*FAIRSEQ_ATS, "launch"]


def launch(*arguments: object) -> subprocess.Popen[str]:
    command, environment = [*LAUNCH, *map(str, arguments)], os.environ | {"PYTHONPATH": f"{ROOT}:{STAND_INS}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def worker(folder: Path, program: str) -> list[str]:
    """A command in the place of fairseq-train: a file with its process id, by rank, and then a program."""
    known = f"import os, sys, time, signal; rank = sys.argv[-1]; folder = {str(folder)!r}"
    known += "; open(f'{folder}/{rank}', 'w').write(str(os.getpid()))"
    return [sys.executable, "-c", f"{known}\n{program}"]


def process_ids(folder: Path) -> list[int]:
    """Of two workers, once both are there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        written = [path.read_text() for path in sorted(folder.iterdir())]
        if len(written) == 2 and all(written):
            return [int(text) for text in written]
        time.sleep(0.02)
    raise AssertionError(f"{folder} holds {list(folder.iterdir())}")


def assert_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{process}/cmdline").exists() for process in processes):
        time.sleep(0.02)
    assert not [process for process in processes if Path(f"/proc/{process}/cmdline").exists()]


def test_trains_two_workers(toy_data: Path, tmp_path: Path) -> None:
    """The real thing: the mask in what the first of two workers saved."""
    options = ["--alternate", "--small-ratio", "0.25", "--max-tokens", "200", "--weight-decay", "0.1"]
    options += ["--save-interval-updates", "1", "--disable-validation"]
    process = launch("--workers", 2, *train_command(toy_data, tmp_path, 3, *options))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    assert "training on 2 devices" in output
    check_mask(tmp_path, 3)


@pytest.mark.parametrize(
    ("command", "added"),
    [
        ("fairseq-ats train CONFIG DATA --save-dir RUN", ["--threads", "1"]),
        ("bin/fairseq-ats train CONFIG DATA --save-dir RUN --threads=2", []),
        ("fairseq-train DATA --cpu", []),
    ],
)
def test_threads_of_a_configuration_file(command: str, added: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``fairseq-ats train`` would take all cores for each worker."""
    workers = []
    monkeypatch.setattr(launcher.shutil, "which", lambda *_, **__: "there")
    monkeypatch.setattr(launcher.Workers, "run", lambda self: workers.append(self))
    with pytest.raises(SystemExit):
        launcher.main(["--workers", "2", *command.split()])
    assert workers[0].command == [*command.split(), *added]


def test_status_of_all_that_ended_well(tmp_path: Path) -> None:
    process = launch("--workers", 2, *worker(tmp_path, "print(sys.argv[1:])"))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    for rank in ("0", "1"):
        assert f"'--distributed-rank', '{rank}'" in output
    assert output.count("'--distributed-world-size', '2'") == 2
    assert output.count("'--ddp-backend', 'legacy_ddp'") == 2


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL)]
)
def test_one_that_fails_ends_all(tmp_path: Path, end: str, status: int) -> None:
    both_run = "[os.path.getsize(f'{folder}/{name}') > 0 for name in os.listdir(folder)] == [True, True]"
    end_when_both_run = f"while not {both_run}: time.sleep(0.02)\n{end}"
    process = launch("--workers", 2, *worker(tmp_path, f"if rank == '0': time.sleep(600)\n{end_when_both_run}"))
    workers = process_ids(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert_gone(workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(tmp_path: Path, number: int) -> None:
    """The workers decide how to end; their status is the launcher's."""
    handler = f"signal.signal({int(number)}, lambda *_: sys.exit(5))"
    process = launch("--workers", 2, *worker(tmp_path, f"{handler}; print('ready', flush=True); time.sleep(600)"))
    workers = process_ids(tmp_path)
    assert [process.stdout.readline() for _ in workers] == ["ready\n"] * 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 5
    assert_gone(workers)


# The launcher, which gets a signal after its last worker has started and before it attends to them.
EARLY_SIGNAL = """
import os, signal, sys
sys.argv[0] = "fairseq-ats"  # which does not wait for torch
from fairseq_ats.cli import launch, workers
start = workers.Workers.start

def start_and_be_signalled(self):
    started = start(self)
    os.kill(os.getpid(), signal.SIGTERM)
    return started

workers.Workers.start = start_and_be_signalled
launch.main()
"""


def test_a_signal_while_workers_start(tmp_path: Path) -> None:
    """It waits until all are there, and then reaches all."""
    command = [sys.executable, "-c", EARLY_SIGNAL, "--workers", "2", *worker(tmp_path, "time.sleep(600)")]
    process = subprocess.run(command, cwd=ROOT, timeout=60)
    # The workers' status, as a shell has it; a launcher that the signal itself ended would have -15.
    assert process.returncode == 128 + signal.SIGTERM
    assert_gone([int(text) for path in tmp_path.iterdir() if (text := path.read_text())])


def test_a_killed_launcher_leaves_no_worker(tmp_path: Path) -> None:
    """Two runs would otherwise write into one folder, once it is started again."""
    process = launch("--workers", 2, *worker(tmp_path, "time.sleep(600)"))
    workers = process_ids(tmp_path)
    process.kill()
    assert_gone(workers)
    process.communicate(timeout=60)


def test_two_machines(tmp_path: Path) -> None:
    """The same command on each, with another first rank."""
    shared = ["--workers", 1, "--world-size", 2, "--init-method", "tcp://127.0.0.1:1"]
    outputs = []
    for first in (0, 1):
        process = launch(*shared, "--first-rank", first, *worker(tmp_path, "print(sys.argv[1:])"))
        outputs.append(process.communicate(timeout=60)[0])
        assert process.returncode == 0
    for rank, output in enumerate(outputs):
        assert f"'--distributed-rank', '{rank}'" in output
        assert "'--distributed-init-method', 'tcp://127.0.0.1:1'" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", 0, "true"], "argument --workers: 0 is not allowed"),
        (["--workers", 2], "argument command: required, fairseq-train"),
        (["--workers", 2, "no-such-command"], "argument command: no-such-command is not a command"),
        (["--workers", 2, "fairseq-train", "DATA"], "it has no --cpu; on GPUs use torchrun"),
        (
            ["--workers", 2, "fairseq-train", "DATA", "--cpu", "--ddp-backend", "pytorch_ddp"],
            "--ddp-backend is pytorch_ddp; allowed on a CPU: legacy_ddp",
        ),
        (
            ["--workers", 2, "fairseq-train", "DATA", "--cpu", "--distributed-world-size", "2"],
            "--distributed-world-size is this launcher's; leave it out",
        ),
        (["--workers", 2, "--first-rank", 1, "true"], "argument --first-rank: 1 is not allowed; allowed with"),
        (["--workers", 1, "--world-size", 2, "true"], "argument --init-method: required with several machines"),
    ],
)
def test_refused(arguments: list[object], message: str) -> None:
    process = launch(*arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in " ".join(output.split())

"""Launches that would train nothing, or several models, end with a sentence and an exit status other than 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq import tasks

from fairseq_ats.host.launch import independent_trainings_problem, no_workers_problem
from tests.support import instrumented
from tests.support.command_line import train_command

TCP = "tcp://127.0.0.1:29500"
SLURM = {"SLURM_STEP_NODELIST": "node[1-2]"}
TORCHRUN = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1"}


@pytest.mark.parametrize(
    ("world_size", "init_method", "no_spawn", "devices", "environment", "message"),
    [
        (1, None, False, 0, {}, None),
        (2, TCP, True, 0, {}, None),  # one process for each worker, by hand
        (2, None, False, 2, {}, None),  # fairseq's own launch
        (2, TCP, False, 2, {}, None),
        (2, None, False, 0, SLURM, None),
        (1, None, False, 0, TORCHRUN, None),  # see independent_trainings_problem
        (2, None, False, 0, {}, "--distributed-world-size is 2, but fairseq starts a worker for each"),
        (2, None, False, 0, TORCHRUN, "--distributed-world-size is 2, but fairseq starts a worker for each"),
        (2, TCP, False, 0, {}, f"--distributed-init-method is {TCP} without --distributed-no-spawn"),
        (1, TCP, False, 0, {}, f"--distributed-init-method is {TCP} without --distributed-no-spawn"),
    ],
)
def test_no_workers(
    world_size: int, init_method: str | None, no_spawn: bool, devices: int, environment: dict, message: str | None
) -> None:
    options = SimpleNamespace(
        distributed_world_size=world_size,
        distributed_init_method=init_method,
        distributed_no_spawn=no_spawn,
        tpu=False,
    )
    problem = no_workers_problem(options, devices, environment)
    if message is None:
        assert problem is None
    else:
        assert problem.startswith(message)
        assert "fairseq-ats launch" in problem


def test_fairseqs_own_launch_on_a_cpu(toy_data: Path, tmp_path: Path) -> None:
    """Stock fairseq ends with exit status 0 here, having trained nothing."""
    options = ["--distributed-world-size", "2", "--distributed-init-method", f"file://{tmp_path}/store"]
    process = instrumented.start(train_command(toy_data, tmp_path / "run", 2, *options), tmp_path / "log")
    assert instrumented.finish(process) == [1]
    assert "ValueError: --distributed-init-method is file://" in (tmp_path / "log").read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("world_size", "environment", "refused"),
    [(1, TORCHRUN, True), (2, TORCHRUN, False), (1, {}, False), (1, TORCHRUN | {"WORLD_SIZE": "1"}, False)],
)
def test_independent_trainings(world_size: int, environment: dict[str, str], refused: bool) -> None:
    problem = independent_trainings_problem(world_size, environment)
    if refused:
        assert problem.startswith("torchrun started 2 processes (WORLD_SIZE) and --distributed-world-size is 1")
    else:
        assert problem is None


def test_independent_trainings_are_refused_at_start(parse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = parse("--alternate")
    tasks.setup_task(cfg.task)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun started 2 processes"):
        tasks.setup_task(cfg.task)

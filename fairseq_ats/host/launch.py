"""Refuse launches in which fairseq would train nothing, or several models instead of one.

fairseq starts the workers of ``fairseq-train`` itself, one for each CUDA device. Without a CUDA device it starts none:
the command ends with exit status 0 and trains nothing (fairseq/distributed/utils.py:379). fairseq imports the plugin
before that, when it parses the options, but calls no function of it. This module therefore wraps the function that
launches the workers. ``fairseq-hydra-train`` imports plugins in the workers, too late for this check.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils

_HOW_ON_A_CPU = "on a CPU start one process for each worker: fairseq-ats launch --workers N fairseq-train ..."


def refuse_launches_without_workers() -> None:
    """Wrap fairseq's ``call_main`` so that it raises ValueError if the launch would start no worker."""
    call_main = distributed_utils.call_main

    @functools.wraps(call_main)
    def checked(cfg: Any, main: Callable[..., None], **arguments: Any) -> None:
        problem = no_workers_problem(cfg.distributed_training, torch.cuda.device_count(), os.environ)
        if problem is not None:
            raise ValueError(problem)
        call_main(cfg, main, **arguments)

    distributed_utils.call_main = checked


def no_workers_problem(distributed: Any, cuda_devices: int, environment: Mapping[str, str]) -> str | None:
    """Return why fairseq's own launch would start no worker; None if it starts workers, or is not asked to.

    Args:
        distributed: the group ``distributed_training`` of fairseq's options.
        cuda_devices: the number of CUDA devices of this machine.
        environment: the environment variables of this process.
    """
    if cuda_devices > 0 or distributed.distributed_no_spawn or distributed.tpu:
        return None
    if distributed.distributed_init_method is None:
        started_by_slurm = "SLURM_STEP_NODELIST" in environment or "SLURM_JOB_NODELIST" in environment
        if distributed.distributed_world_size == 1 or started_by_slurm:
            return None
        return (
            f"--distributed-world-size is {distributed.distributed_world_size}, but fairseq starts a worker for each "
            f"CUDA device, and there is none; {_HOW_ON_A_CPU}"
        )
    return (
        f"--distributed-init-method is {distributed.distributed_init_method} without --distributed-no-spawn: fairseq "
        f"starts a worker for each CUDA device, and there is none; {_HOW_ON_A_CPU}"
    )


def independent_trainings_problem(world_size: int, environment: Mapping[str, str]) -> str | None:
    """Return why this process would train a separate model although torchrun started several processes; None if not.

    fairseq ignores torchrun if it expects one worker, as on a CPU or on a machine with one GPU
    (fairseq/distributed/utils.py:54). All processes would then write the same checkpoint files.

    Args:
        world_size: fairseq's ``--distributed-world-size``.
        environment: the environment variables of this process.
    """
    processes = environment.get("WORLD_SIZE", "1")
    if world_size > 1 or "RANK" not in environment or processes == "1":
        return None
    return (
        f"torchrun started {processes} processes (WORLD_SIZE) and --distributed-world-size is 1, so that each would "
        f"train a model of its own; add --distributed-world-size {processes} on GPUs, or {_HOW_ON_A_CPU}"
    )

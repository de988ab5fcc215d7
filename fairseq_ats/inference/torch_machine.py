"""Let torch run on the machine that a person asks for."""

from __future__ import annotations

import torch

from fairseq_ats.inference.engine import Machine


def use_torch_on(machine: Machine) -> str:
    """Set the number of torch's threads for the whole process, and return torch's name of the device.

    Raises:
        ValueError: ``machine`` has more than one worker, or asks for CUDA where torch finds no CUDA device.
    """
    if machine.workers > 1:
        raise ValueError(f"--workers is {machine.workers}; allowed without CTranslate2: 1 (use --threads)")
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda, and torch finds no CUDA device; allowed here: cpu, auto")
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    if machine.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return machine.device

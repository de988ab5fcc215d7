"""Name the machine, for records of what was measured on it, and refuse a device that it lacks."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def check_device(device: str | None) -> None:
    """Refuse a GPU that is not there; fairseq would train on the CPU without a word (fairseq/trainer.py:60).

    Raises:
        ValueError: ``device`` is "cuda", and torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("argument --device: cuda is not allowed, because torch finds no GPU; allowed: cpu")


def hardware(device: str, threads: int) -> str:
    """Return one line for a record: processor or GPU, threads, and the version of torch."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    special = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = models[0] if models else platform.processor()
    return f"{name} ({' '.join(special)}), {threads} thread(s), torch {torch.__version__}"

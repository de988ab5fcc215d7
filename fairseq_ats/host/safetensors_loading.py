"""Let fairseq read checkpoints of :mod:`~fairseq_ats.host.safetensors_file` wherever it reads checkpoints.

``fairseq.checkpoint_utils.load_checkpoint_to_cpu`` opens a file of torch (fairseq/checkpoint_utils.py:339), and no
option or hook changes that. It then gets a temporary copy that torch wrote, so that all it does afterwards (overrides,
options of older versions) is done to these checkpoints as well.
"""

from __future__ import annotations

import os
import tempfile
from functools import wraps
from typing import Any

import torch
from fairseq import checkpoint_utils

from fairseq_ats.host import safetensors_file


def read_safetensors() -> None:
    """Replace fairseq's function that reads a checkpoint."""
    stock = checkpoint_utils.load_checkpoint_to_cpu

    @wraps(stock)
    def load_checkpoint_to_cpu(path: str, *args: Any, **options: Any) -> dict[str, Any]:
        if not safetensors_file.is_safetensors(path):
            return stock(path, *args, **options)
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "checkpoint.pt")
            torch.save(safetensors_file.read(path), copy)
            return stock(copy, *args, **options)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu

"""Reading checkpoints: what may be unpickled, and the structure a checkpoint was written with."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile

import numpy as np
import torch

from fairseq_ats.partition import Partition

PARTITION_KEY = "partition"


def allow_fairseq_checkpoints() -> None:
    """Let PyTorch's weights-only loader read what fairseq writes, and nothing that could run code.

    fairseq stores the options as ``argparse.Namespace``, and after a validation with ``--eval-bleu`` its BLEU counts as
    numpy arrays (fairseq/tasks/translation.py, ``_bleu_counts``). Without these names ``torch.load`` of torch >= 2.6
    refuses every checkpoint of ``fairseq-train``.
    """
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            np.ndarray,
            np.dtype,
            np._core.multiarray._reconstruct,
            np.dtypes.Int64DType,
            np.dtypes.Float64DType,
        ]
    )


def partition_of(task_state: dict | None) -> Partition | None:
    """The partition in a checkpoint's task state; None for a checkpoint of another task."""
    saved = (task_state or {}).get(PARTITION_KEY)
    return None if saved is None else Partition(**saved)


def read_partition(path: str) -> Partition | None:
    """The partition of the checkpoint at ``path``, without reading its tensors.

    Raises:
        ValueError: the file is not a whole checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        size = os.path.getsize(path)
        raise ValueError(
            f"{path} ({size:,} bytes) cannot be read as a checkpoint; it is truncated, damaged, or holds more than "
            f"weights and options: {error}"
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no model")
    return partition_of(state.get("task_state"))

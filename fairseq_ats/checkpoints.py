"""Reading checkpoints: what may be unpickled, and the partition in a checkpoint."""

from __future__ import annotations

import argparse
import os
import pickle
import typing
import zipfile
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from fairseq_ats.partition import Partition

PARTITION_KEY = "partition"

# fairseq stores options as a Namespace, and after a validation with --eval-bleu its BLEU counts as numpy arrays
# (fairseq/tasks/translation.py, "_bleu_counts").
_IN_CHECKPOINTS = (
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    np._core.multiarray._reconstruct,
    np.dtypes.Int64DType,
    np.dtypes.Float64DType,
)

# On resume the first worker reads the checkpoint and sends it to the others, with the configuration in omegaconf's
# containers (fairseq/distributed/utils.py, broadcast_object).
_BETWEEN_WORKERS = (
    DictConfig,
    ListConfig,
    ContainerMetadata,
    Metadata,
    AnyNode,
    typing.Any,
    defaultdict,
    dict,
    list,
    int,
    _TensorPlaceholder,
)


def allow_fairseq_checkpoints() -> None:
    """Let PyTorch's weights-only loader read what fairseq writes, and nothing that could run code.

    Without these names ``torch.load`` of torch >= 2.6 refuses every checkpoint of ``fairseq-train``, and the restart of
    a training with several workers.
    """
    torch.serialization.add_safe_globals([*_IN_CHECKPOINTS, *_BETWEEN_WORKERS])


def partition_of(task_state: dict | None) -> Partition | None:
    """The partition in a checkpoint's task state; None for a checkpoint of another task.

    Raises:
        ValueError: it is none, or has a value outside the allowed ones.
    """
    try:
        saved = (task_state or {}).get(PARTITION_KEY)
        return None if saved is None else Partition(**saved)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the checkpoint's partition cannot be read: {error}") from error


def read_partition(path: str) -> Partition | None:
    """The partition of the checkpoint at ``path``; see :func:`read_header`."""
    return partition_of(read_header(path).get("task_state"))


def read_header(path: str) -> dict[str, Any]:
    """A checkpoint's dictionary; its tensors stay on disk until they are used.

    Raises:
        ValueError: the file is not a whole checkpoint.
    """
    try:
        # Files written by torch before 1.6, as many published models are, are not archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        size = os.path.getsize(path)
        raise ValueError(
            f"{path} ({size:,} bytes) cannot be read as a checkpoint; it is truncated, damaged, or holds more than "
            f"weights and options: {error}"
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no model")
    return state

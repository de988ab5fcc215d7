"""Read checkpoints, and the partition in a checkpoint."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from fairseq_ats.checkpoints.keys import PARTITION_KEY
from fairseq_ats.partition.partition import Partition


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


def read_header(path: str) -> dict[str, Any]:
    """A checkpoint's dictionary; its tensors stay on disk until they are used, and are not checked.

    Raises:
        ValueError: the file is not a whole checkpoint.
    """
    try:
        # Files written by torch before 1.6, as many published models are, are not archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # what damaged bytes make an unpickler raise has no end
        raise ValueError(
            f"{path} ({_size(path)}) cannot be read as a checkpoint; it is truncated, damaged, or holds more than "
            f"weights and options: {error}"
        ) from error
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no model")
    _check_types(path, state)
    return state


def check_sums(path: str) -> None:
    """Compare every byte of a checkpoint with the sums (CRC-32) that torch saved with it; about a second per gigabyte.

    ``torch.load`` does not: it would use a tensor with a flipped bit as it is. Files of torch before 1.6, and those
    saved with ``torch.serialization.set_crc32_options(False)``, have no sums and pass.

    Raises:
        ValueError: the file is damaged.
    """
    if not zipfile.is_zipfile(path) and not _is_older_than_archives(path):
        raise ValueError(f"{path} ({_size(path)}) cannot be read as a checkpoint; it is truncated or damaged")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError("it is compressed, and torch compresses nothing")
            damaged = archive.testzip() if any(record.CRC for record in records) else None
    except Exception as error:  # as above, of a damaged directory
        raise ValueError(f"{path} ({_size(path)}) is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} ({_size(path)}) is damaged: the sum of its record {damaged} does not fit")


def _is_older_than_archives(path: str) -> bool:
    """Whether a file begins as torch before 1.6 wrote it: a pickled magic number (torch/serialization.py)."""
    with open(path, "rb") as file:
        return torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") in file.read(32)


def _size(path: str) -> str:
    return f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "not a file"


# What fairseq reads without looking, if it is there (fairseq/trainer.py:401).
_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "cfg": (dict, DictConfig),
    "args": argparse.Namespace,
    "task_state": dict,
    "extra_state": dict,
    "optimizer_history": list,
}


def _check_types(path: str, state: Mapping[str, Any]) -> None:
    for key, types in _TYPES.items():
        value = state.get(key)
        if value is not None and not isinstance(value, types):
            raise ValueError(f"{path} is not a fairseq checkpoint: its {key} is a {type(value).__name__}")
    wrong = [name for name, value in state["model"].items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ValueError(f"{path} is not a fairseq checkpoint: {wrong[0]!r} of its model is not a tensor")
    history = state.get("optimizer_history") or []
    if not all(isinstance(entry, dict) and isinstance(entry.get("num_updates"), int) for entry in history):
        raise ValueError(f"{path} is not a fairseq checkpoint: its optimizer_history has no num_updates")

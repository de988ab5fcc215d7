"""Read and check a checkpoint file, and read the partition and the count of updates in it."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from fairseq_ats.checkpoints.keys import PARTITION_KEY
from fairseq_ats.host import safetensors_file
from fairseq_ats.partition.partition import Partition


def partition_of(task_state: dict | None) -> Partition | None:
    """Return the partition in a checkpoint's task state; None if the task state has no partition.

    Raises:
        ValueError: the saved value is not a partition, or has a field outside its allowed values.
    """
    try:
        saved = (task_state or {}).get(PARTITION_KEY)
        return None if saved is None else Partition.from_dict(saved)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the checkpoint's partition cannot be read: {error}") from error


def updates_of(state: Mapping[str, Any]) -> int:
    """Return the number of updates after which a training wrote a checkpoint."""
    return state["optimizer_history"][-1]["num_updates"]


def read_header(path: str) -> dict[str, Any]:
    """Return the dictionary of a checkpoint.

    Leave its tensors on disk until they are used. Do not check the bytes of the tensors; see :func:`check_sums`.

    Raises:
        ValueError: the file is not a whole fairseq checkpoint, or holds more than weights and options.
    """
    state = safetensors_file.read(path) if safetensors_file.is_safetensors(path) else _unpickled(path)
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no model")
    _check_types(path, state)
    return state


def _unpickled(path: str) -> Any:
    try:
        # torch before 1.6, which wrote many published models, did not write archives; such files cannot be mapped.
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # damaged bytes can make an unpickler raise any exception
        raise ValueError(
            f"{path} ({_size(path)}) cannot be read as a checkpoint; it is truncated, damaged, or holds more than "
            f"weights and options: {error}"
        ) from error


def read_checked(path: str) -> dict[str, Any]:
    """Read the dictionary of a checkpoint, after a check of every byte of the file.

    Raises:
        ValueError: the file is damaged, or is not a whole checkpoint; see :func:`check_sums` and :func:`read_header`.
    """
    check_sums(path)
    return read_header(path)


def check_sums(path: str) -> None:
    """Compare every byte of a checkpoint with the checksums in the file: torch's (CRC-32), or ours of safetensors.

    The comparison takes about a second per gigabyte. ``torch.load`` makes no comparison, and would use a tensor with a
    flipped bit unchanged. Accept a file without checksums: torch before 1.6 wrote none, and later versions write none
    after ``torch.serialization.set_crc32_options(False)``.

    Raises:
        ValueError: the file is damaged, or is not a file of torch.
    """
    if safetensors_file.is_safetensors(path):
        safetensors_file.check_sum(path)
        return
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
    except Exception as error:  # a damaged archive directory can raise any exception
        raise ValueError(f"{path} ({_size(path)}) is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} ({_size(path)}) is damaged: the sum of its record {damaged} does not fit")


def _is_older_than_archives(path: str) -> bool:
    """Return whether a file begins with the pickled magic number of torch before 1.6 (torch/serialization.py)."""
    with open(path, "rb") as file:
        return torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") in file.read(32)


def _size(path: str) -> str:
    """Return the size of a file in bytes, as text for an error message."""
    return f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "not a file"


# The types of the entries that fairseq uses unchecked where they exist (fairseq/trainer.py:401).
_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "cfg": (dict, DictConfig),
    "args": argparse.Namespace,
    "task_state": dict,
    "extra_state": dict,
    "optimizer_history": list,
}


def _check_types(path: str, state: Mapping[str, Any]) -> None:
    """Check the types of a checkpoint's entries.

    Raises:
        ValueError: an entry has a type that fairseq does not accept there.
    """
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

"""Keep a checkpoint in one file of safetensors: its tensors, and everything else as JSON in the file's header.

No pickle, so that reading runs no code whatever the file holds, and any tool that knows safetensors reads the weights
under the names of the parameters. safetensors has no sum of its own. The header therefore has a SHA-256 over the whole
file, in which the sum itself counts as zeros.

JSON has fewer types than a checkpoint. An object ``{"": KIND, "of": ...}`` stands for a value of another type: a tensor
(by its name in the file), an array of numpy, a tuple, a Namespace, or a dictionary whose keys are not text.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SUFFIX = ".safetensors"
_STATE, _SUM = "fairseq_ats.checkpoint", "fairseq_ats.sha256"
_NO_SUM = "0" * 64


def is_safetensors(path: str | Path) -> bool:
    """Return whether a file begins as safetensors: the header's length in eight bytes, and then JSON."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        start = file.read(9)
        return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= os.path.getsize(path)


def save(state: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint with ``torch.save``, or with safetensors where the path ends in ``.safetensors``.

    Raises:
        ValueError: the package safetensors is missing, or the checkpoint has a value that JSON cannot stand for.
        OSError: the file cannot be written to its end.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        _save_pickled(state, path)
        return
    check_package(path)
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    header = json.dumps(_encoded(state, "", tensors, {}))
    with errors_naming(path):
        save_file(tensors, path, {_STATE: header, _SUM: _NO_SUM})
    with path.open("r+b") as file:
        place, found = _sum_of(file, path)
        assert found == _NO_SUM
        file.seek(0)
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest.encode())


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Turn the error of the package safetensors, which writes ``path`` meanwhile, into an OSError that names the file.

    Raises:
        OSError: the file cannot be written to its end.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:  # only its text says the cause
        raise OSError(errno.EIO, str(error), str(path)) from error


def _save_pickled(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with ``torch.save``.

    Raises:
        OSError: the file cannot be written to its end.
    """
    try:
        # torch would open a path in C++, where the cause is lost.
        with path.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # torch ends its archive after a failed write, and fails again (caffe2/serialize/inline_container.cc:672).
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None  # the error of a write names no file


def check_package(path: str | Path) -> None:
    """Check that safetensors, which ``path`` needs, can be imported.

    Raises:
        ValueError: it cannot.
    """
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors ({error}): pip install safetensors") from error


def check_sum(path: str) -> None:
    """Compare every byte of a file with the SHA-256 in its header.

    Raises:
        ValueError: the file is damaged, or :func:`save` did not write it.
    """
    with open(path, "rb") as file:
        place, expected = _sum_of(file, path)
        file.seek(0)
        if _digest(file, place) != expected:
            raise ValueError(f"{path} ({os.path.getsize(path):,} bytes) is damaged: its SHA-256 is another")


def read(path: str) -> dict[str, Any]:
    """Return the checkpoint that :func:`save` wrote, without a check of its sum.

    Raises:
        ValueError: the file cannot be read, or is not a checkpoint.
    """
    check_package(path)
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = metadata.get(_STATE)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
        if state is not None:
            return _decoded(json.loads(state), tensors)
    except Exception as error:  # damaged bytes can make a parser raise any exception
        raise ValueError(f"{path} ({os.path.getsize(path):,} bytes) cannot be read as a checkpoint: {error}") from error
    raise ValueError(f"{path} is not a checkpoint: its header has no {_STATE}; other safetensors hold weights alone")


def _sum_of(file: Any, path: str | Path) -> tuple[int, str]:
    """Return the place and the value of the sum in an open file."""
    header = file.read(int.from_bytes(file.read(8), "little"))
    before = f'"{_SUM}":"'.encode()
    at = header.find(before)
    if at < 0 or header.find(before, at + 1) >= 0:
        raise ValueError(f"{path} is damaged, or not a checkpoint: its header has no single {_SUM}")
    at += len(before)
    return 8 + at, header[at : at + 64].decode("ascii", "replace")


def _digest(file: Any, place: int) -> str:
    """Return the SHA-256 of an open file, with zeros in the place of the sum."""
    digest = hashlib.sha256(file.read(place))
    file.read(64)
    digest.update(_NO_SUM.encode())
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _encoded(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[tuple, str]) -> Any:
    """Return a value as JSON has it, and put its tensors into ``tensors``, one entry for all names of one tensor."""

    def inside(key: Any, of: Any) -> Any:
        return _encoded(of, f"{name}/{key}", tensors, seen)

    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [inside(number, of) for number, of in enumerate(value)]
        case tuple():
            return {"": "tuple", "of": [inside(number, of) for number, of in enumerate(value)]}
        case Namespace():
            return {"": "namespace", "of": {key: inside(key, of) for key, of in vars(value).items()}}
        case dict() if all(isinstance(key, str) and key for key in value):
            return {key: inside(key, of) for key, of in value.items()}
        case dict():
            return {"": "dictionary", "of": [[inside("key", key), inside(key, of)] for key, of in value.items()]}
        case np.ndarray():
            return {"": "array", "of": inside("array", torch.from_numpy(value))["of"]}
        case Tensor():
            memory = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else (name,)
            if memory not in seen:
                seen[memory] = name.removeprefix("/model/").removeprefix("/")
                tensors[seen[memory]] = value.detach().clone(memory_format=torch.contiguous_format)
            return {"": "tensor", "of": seen[memory]}
    raise ValueError(
        f"safetensors and JSON cannot hold {name}, a {type(value).__name__}; allowed: a file of torch, .pt"
    )


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo :func:`_encoded`."""
    if isinstance(value, list):
        return [_decoded(of, tensors) for of in value]
    if not isinstance(value, dict):
        return value
    if "" not in value:
        return {key: _decoded(of, tensors) for key, of in value.items()}
    kind, of = value[""], value["of"]
    match kind:
        case "tensor":
            return tensors[of]
        case "array":
            return tensors[of].numpy()
        case "tuple":
            return tuple(_decoded(of, tensors))
        case "namespace":
            return Namespace(**_decoded(of, tensors))
        case "dictionary":
            return {_decoded(key, tensors): _decoded(item, tensors) for key, item in of}
    raise ValueError(f"its header has a value of the kind {kind!r}")

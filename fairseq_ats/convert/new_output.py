"""A file or folder that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairseq_ats.deployed_folder import DESCRIPTION_FILE


def check_output(output: Path, checkpoint: Path, is_folder: bool, overwrite: bool) -> None:
    """Before any work.

    Raises:
        ValueError: the output cannot be written there, or must not be.
    """
    if not output.parent.is_dir():
        raise ValueError(f"--output is {output}, and there is no folder {output.parent}")
    if not output.exists():
        return
    if output.samefile(checkpoint):
        raise ValueError(f"--output is {output}, the checkpoint itself")
    if not overwrite:
        raise ValueError(f"--output is {output}, which exists; --overwrite replaces it")
    if output.is_dir() != is_folder:
        kinds = ("file", "folder")
        raise ValueError(f"--output is the {kinds[not is_folder]} {output}, and this format is a {kinds[is_folder]}")
    if is_folder and any(output.iterdir()) and not (output / DESCRIPTION_FILE).is_file():
        raise ValueError(f"--output is {output}, which holds files that fairseq-ats-convert did not write")


@contextmanager
def new_output(output: Path, is_folder: bool) -> Iterator[Path]:
    """A path to write to; when the context ends well it becomes ``output``, otherwise it is removed.

    An existing ``output`` is replaced, and stays what it was until then.
    """
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        new = Path(scratch) / "new"
        if is_folder:
            new.mkdir()
        yield new
        if is_folder and output.exists():
            os.replace(output, Path(scratch) / "old")  # a folder takes the place of an empty one only
        os.replace(new, output)

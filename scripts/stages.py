"""Stages: folders that are written whole, once.

A stage's folder holds a stamp, a JSON file that says what the folder was made from. It is there, with the same stamp,
or the stage is done (again): what an interrupted call had written is thrown away.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def is_done(folder: Path, stamp_name: str, stamp: Mapping[str, Any]) -> bool:
    try:
        return json.loads((folder / stamp_name).read_text("utf-8")) == stamp
    except (OSError, ValueError):
        return False


def check_ours(folder: Path, stamp_name: str) -> None:
    """Raise ValueError if there is something at ``folder`` that is no stage's: somebody may need it."""
    if folder.exists() and not (folder / stamp_name).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds files that this script did not write; give another folder")


@contextmanager
def written_once(folder: Path, stamp_name: str, stamp: Mapping[str, Any]) -> Iterator[Path]:
    """An empty folder to write to; when the context ends well it gets the stamp and takes the place of ``folder``.

    Raises:
        ValueError: ``folder`` is not ours, or another process is writing it.
    """
    check_ours(folder, stamp_name)
    with made(folder.parent), _locked(folder) as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        (new / stamp_name).write_text(json.dumps(stamp, indent=1) + "\n", "utf-8")
        if folder.exists():
            folder.rename(scratch / "old")
        new.rename(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, so that a rename is all that is left to do; no other process has it."""
    # The name is always the same, so that what a killed process left is found.
    scratch = folder.parent / f".{folder.name}.partial"
    try:
        scratch.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    lock = os.open(scratch, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is writing {folder}") from None
        try:
            for left in scratch.iterdir():
                shutil.rmtree(left)
            yield scratch
        finally:
            shutil.rmtree(scratch)
    finally:
        os.close(lock)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; of those that were not there, the empty ones are removed again at the end."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for path in new:
                path.rmdir()

"""Write files and folders that appear whole or not at all.

:func:`written_whole` writes one file or folder. :func:`made_once` writes a folder that a later call finds finished: the
folder holds a stamp, a JSON file that says what the folder was made from.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


@contextmanager
def written_whole(path: str | Path, is_folder: bool = False) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``path`` when the context ends well, and is removed otherwise.

    The old content of ``path`` stays until then, and comes back if it cannot be replaced. A symbolic link stays a link:
    the file that it points to is replaced.

    Args:
        is_folder: yield an empty folder, and not the path of a file.

    Raises:
        ValueError: the folder of ``path`` does not exist or cannot be written to, or something else than a file (or,
            with ``is_folder``, than a folder) is at ``path``: nothing may take the place of a device.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
        raise ValueError(f"{path} cannot be written: it is there already and not a {'folder' if is_folder else 'file'}")
    prefix = _prefix_of_partial(path)
    try:
        # Write beside the path, so that only a rename is left to do.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch:
            new, old = Path(scratch) / "new" / path.name, Path(scratch) / "old" / path.name
            new.parent.mkdir()
            old.parent.mkdir()
            if is_folder:
                new.mkdir()
            yield new
            try:
                if is_folder and path.exists():
                    os.replace(path, old)  # a folder can only replace an empty one
                os.replace(new, path)
            except BaseException:
                if old.exists() and not path.exists():
                    os.replace(old, path)
                raise
    except OSError as error:
        if str(error.filename).startswith(str(path.parent / prefix)):
            # The caller does not know the temporary name.
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
        raise


@contextmanager
def made_once(folder: Path, stamp_name: str, stamp: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to write to; when the context ends well, it gets the stamp and replaces ``folder``.

    Remove what a killed process left beside ``folder``.

    Raises:
        ValueError: ``folder`` holds files of somebody else, or cannot be written, or another process is writing it.
    """
    check_ours(folder, stamp_name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        for left in folder.parent.glob(f"{_prefix_of_partial(folder)}*"):
            shutil.rmtree(left)
        with written_whole(folder, is_folder=True) as new:
            yield new
            (new / stamp_name).write_text(json.dumps(stamp, indent=1) + "\n", "utf-8")


def stamp_of(folder: Path, stamp_name: str) -> dict[str, Any]:
    """Return what ``folder`` was made from; an empty dictionary if it is not finished."""
    try:
        return dict(json.loads((folder / stamp_name).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def check_ours(folder: Path, stamp_name: str) -> None:
    """Raise ValueError if there is something at ``folder`` without a stamp: somebody may need it."""
    if folder.exists() and not (folder / stamp_name).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds files that this command did not write; give another folder")


def _prefix_of_partial(path: Path) -> str:
    return f".{path.name}.partial-"


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Raise ValueError if another process writes ``folder``."""
    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {folder}") from None
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()

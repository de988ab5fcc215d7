"""Write files and folders that appear whole or not at all.

:func:`written_whole` writes one file or folder. :func:`made_once` writes a folder together with a stamp. The stamp is a
JSON file in the folder that records what the folder was made from, so that a later call can see that it is finished.
"""

from __future__ import annotations

import hashlib
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
    """Yield a temporary path to write to, and rename it to ``path`` when the context ends without an error.

    Remove the temporary path if the context raises. Keep the old content of ``path`` until the rename, and restore it
    if the rename fails. Keep a symbolic link as a link, and replace the file that it points to.

    Args:
        path: the final path of the file or folder.
        is_folder: yield an empty folder instead of the path of a file that does not exist yet.

    Raises:
        ValueError: the parent folder of ``path`` does not exist or cannot be written to; or ``path`` exists and is not
            a file (with ``is_folder``: not a folder). A device, for example, is never replaced.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
        raise ValueError(f"{path} cannot be written: it is there already and not a {'folder' if is_folder else 'file'}")
    prefix = _prefix_of_partial(path)
    try:
        # Write in the same parent folder, so that the last step is only a rename.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch:
            new, old = Path(scratch) / "new" / path.name, Path(scratch) / "old" / path.name
            new.parent.mkdir()
            old.parent.mkdir()
            if is_folder:
                new.mkdir()
            yield new
            try:
                if is_folder and path.exists():
                    os.replace(path, old)  # os.replace cannot overwrite a folder that has content
                os.replace(new, path)
            except BaseException:
                if old.exists() and not path.exists():
                    os.replace(old, path)
                raise
    except OSError as error:
        if str(error.filename).startswith(str(path.parent / prefix)):
            # Name the final path in the message: the caller does not know the temporary one.
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
        raise


@contextmanager
def made_once(folder: Path, stamp_name: str, stamp: Mapping[str, Any]) -> Iterator[Path]:
    """Yield an empty folder to write to; when the context ends without an error, add the stamp and replace ``folder``.

    First remove the temporary folders that a killed process left beside ``folder``.

    Args:
        folder: the final path of the folder.
        stamp_name: the file name of the stamp in the folder.
        stamp: the content of the stamp, which is written as JSON.

    Raises:
        ValueError: ``folder`` holds files without a stamp, cannot be written, or is being written by another process.
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
    """Read the stamp of ``folder``; return an empty dictionary if there is no readable stamp."""
    try:
        return dict(json.loads((folder / stamp_name).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def check_ours(folder: Path, stamp_name: str) -> None:
    """Refuse a path that this package did not write, because somebody may need its content.

    Raises:
        ValueError: ``folder`` is a file, or a folder that has content but no stamp.
    """
    if folder.exists() and not (folder / stamp_name).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds files that this command did not write; give another folder")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefix_of_partial(path: Path) -> str:
    return f".{path.name}.partial-"


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes while the context lasts.

    Raises:
        ValueError: another process holds the lock, or the lock file cannot be written.
    """
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

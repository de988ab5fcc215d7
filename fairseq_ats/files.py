"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path, is_folder: bool = False) -> Iterator[Path]:
    """A path to write to; when the context ends well it becomes ``path``, otherwise it is removed.

    What was at ``path`` is replaced, and stays what it was until then; it comes back if it cannot be replaced. A
    symbolic link stays one: what it points to is replaced.

    Args:
        is_folder: the path to write to is an empty folder, and not yet a file.

    Raises:
        ValueError: the folder of ``path`` does not exist or cannot be written to, or ``path`` is neither a file nor,
            where one is to be written, a folder: nothing may take the place of a device.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
        raise ValueError(f"{path} cannot be written: it is there already and not a {'folder' if is_folder else 'file'}")
    # Beside the path, so that a rename is all that is left to do.
    prefix = f".{path.name}."
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as scratch:
            new, old = Path(scratch) / "new" / path.name, Path(scratch) / "old" / path.name
            new.parent.mkdir()
            old.parent.mkdir()
            if is_folder:
                new.mkdir()
            yield new
            try:
                if is_folder and path.exists():
                    os.replace(path, old)  # a folder takes the place of an empty one only
                os.replace(new, path)
            except BaseException:
                if old.exists() and not path.exists():
                    os.replace(old, path)
                raise
    except OSError as error:
        if str(error.filename).startswith(str(path.parent / prefix)):
            # Nobody knows the temporary name.
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
        raise

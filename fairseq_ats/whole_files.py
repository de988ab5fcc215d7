"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` at the end, or goes away after an exception.

    A symbolic link stays one: what it points to is written.

    Raises:
        ValueError: the folder of ``path`` does not exist, or ``path`` is something else than a file: a folder, or a
            device, which a file must not replace.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ValueError(f"{path} cannot be written: {folder} is not a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} cannot be written: it is there already and not a file")
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.")
    os.close(descriptor)
    try:
        # mkstemp makes files that only their owner reads; the umask of the process is to decide, as for any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)

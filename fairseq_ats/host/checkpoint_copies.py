"""fairseq's checkpoints, each of them whole or not there at all, whenever the process is killed.

fairseq writes the first file of a save beside its place and renames it (fairseq/checkpoint_utils.py:583), and then
copies it over the others, ``checkpoint_best.pt`` and ``checkpoint_last.pt`` among them, in place (:139): killed there,
it leaves half a ``checkpoint_last.pt`` and nothing to resume from. No option or hook changes that, so the name by which
that module calls fairseq's file functions is given to a subclass with another ``copy``.
"""

from __future__ import annotations

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager


class WholeCopies(PathManager):
    """fairseq's file functions; a copy appears under its name when all of it is there."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copy, through ``dst_path`` + ".tmp", fairseq's own name for a file that is being written.

        Where files cannot be renamed (the remote stores of iopath), as fairseq copies.
        """
        if not overwrite or not PathManager.supports_rename(dst_path):
            return PathManager.copy(src_path, dst_path, overwrite=overwrite)
        copied = PathManager.copy(src_path, dst_path + ".tmp", overwrite=True)
        PathManager.rename(dst_path + ".tmp", dst_path)
        return copied


def write_whole_checkpoints() -> None:
    """Have fairseq's ``save_checkpoint`` copy by :class:`WholeCopies`."""
    checkpoint_utils.PathManager = WholeCopies

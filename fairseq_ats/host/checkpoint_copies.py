"""Make fairseq copy a checkpoint completely or not at all, even if the process is killed.

fairseq writes the first file of a save under a temporary name and renames it (fairseq/checkpoint_utils.py:583). It then
copies that file over the other checkpoints, such as ``checkpoint_best.pt`` and ``checkpoint_last.pt``, in place (:139).
A process that is killed during this copy leaves half a ``checkpoint_last.pt`` and nothing to resume from. No option or
hook changes that. This module therefore replaces ``PathManager`` in ``fairseq.checkpoint_utils`` by a subclass with a
different ``copy``.
"""

from __future__ import annotations

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager


class WholeCopies(PathManager):
    """fairseq's file functions, with a ``copy`` that creates the target file only once the copy is complete."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copy to ``dst_path`` + ".tmp", fairseq's own name for an unfinished file, and rename the copy.

        Copy as fairseq does if ``overwrite`` is False or if files cannot be renamed (the remote stores of iopath).
        """
        if not overwrite or not PathManager.supports_rename(dst_path):
            return PathManager.copy(src_path, dst_path, overwrite=overwrite)
        copied = PathManager.copy(src_path, dst_path + ".tmp", overwrite=True)
        PathManager.rename(dst_path + ".tmp", dst_path)
        return copied


def copy_checkpoints_whole() -> None:
    """Replace the ``PathManager`` that fairseq's ``save_checkpoint`` uses by :class:`WholeCopies`."""
    checkpoint_utils.PathManager = WholeCopies

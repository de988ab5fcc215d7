"""Make fairseq copy a checkpoint whole or not at all, whenever the process is killed.

fairseq writes the first file of a save beside its place and renames it (fairseq/checkpoint_utils.py:583). It then
copies that file over the others, among them ``checkpoint_best.pt`` and ``checkpoint_last.pt``, in place (:139). A
process that is killed there leaves half a ``checkpoint_last.pt`` and nothing to resume from. No option or hook changes
that, so fairseq's ``PathManager`` is replaced, in that module, by a subclass with another ``copy``.
"""

from __future__ import annotations

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager


class WholeCopies(PathManager):
    """fairseq's file functions, with a copy that appears under its name when all of it is there."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        """Copy through ``dst_path`` + ".tmp", fairseq's own name for a file that is being written.

        Where files cannot be renamed (the remote stores of iopath), copy as fairseq does.
        """
        if not overwrite or not PathManager.supports_rename(dst_path):
            return PathManager.copy(src_path, dst_path, overwrite=overwrite)
        copied = PathManager.copy(src_path, dst_path + ".tmp", overwrite=True)
        PathManager.rename(dst_path + ".tmp", dst_path)
        return copied


def copy_checkpoints_whole() -> None:
    """Replace the ``PathManager`` of fairseq's ``save_checkpoint`` by :class:`WholeCopies`."""
    checkpoint_utils.PathManager = WholeCopies

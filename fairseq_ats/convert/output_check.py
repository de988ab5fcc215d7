"""Whether a conversion may write where it is asked to."""

from __future__ import annotations

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

"""Check that a conversion may write its output at the given path."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from fairseq_ats.data.folder import SENTENCEPIECE_MODEL
from fairseq_ats.inference.classifier import NETWORK_FILES
from fairseq_ats.inference.ctranslate2_engine import SHORTLIST_FILE
from fairseq_ats.inference.deployed_folder import DESCRIPTION_FILE, SUMS_FILE
from fairseq_ats.inference.huggingface_engine import HUGGINGFACE_FILES
from fairseq_ats.inference.onnx_engine import CANDIDATES_FILE, DECODER_FILE, ENCODER_FILE, WEIGHTS_FILE

# Names of the files that the formats write. CTranslate2 writes one vocabulary file or two.
WRITTEN = (
    DESCRIPTION_FILE,
    SUMS_FILE,
    SENTENCEPIECE_MODEL,
    "dict.*.txt",
    ENCODER_FILE,
    DECODER_FILE,
    CANDIDATES_FILE,
    WEIGHTS_FILE,
    *NETWORK_FILES.values(),
    "model.bin",
    SHORTLIST_FILE,
    "config.json",
    *HUGGINGFACE_FILES,
    "*_vocabulary.json",
)


def check_output(output: Path, inputs: Sequence[Path], is_folder: bool, overwrite: bool) -> None:
    """Check the output path before any work.

    Args:
        inputs: files and folders that the conversion reads.
        is_folder: whether the format writes a folder and not a file.
        overwrite: allow an existing output. A folder must hold nothing but the result of an earlier conversion.

    Raises:
        ValueError: the output cannot be written there, or must not replace what is there.
    """
    if not output.parent.is_dir():
        raise ValueError(f"--output is {output}, and there is no folder {output.parent}")
    if not output.exists():
        return
    if not overwrite:
        raise ValueError(f"--output is {output}, which exists; --overwrite replaces it")
    if output.is_dir() != is_folder:
        there, wanted = ("file", "folder") if is_folder else ("folder", "file")
        raise ValueError(f"--output is the {there} {output}; this format writes a {wanted}")
    for path in inputs:
        if path.resolve().is_relative_to(output.resolve()):
            raise ValueError(f"--output is {output}, and {path} is read from there; write somewhere else")
    others = [path.name for path in output.glob("*") if not any(fnmatch(path.name, name) for name in WRITTEN)]
    if is_folder and (others or (any(output.iterdir()) and not (output / DESCRIPTION_FILE).is_file())):
        what = ", ".join(sorted(others)[:3]) or "files"
        raise ValueError(f"--output is {output}, which holds {what} that fairseq-ats-convert did not write")

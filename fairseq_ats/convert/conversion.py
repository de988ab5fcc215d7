"""Run one conversion: check the options, read, write, verify, and only then put the result in place."""

from __future__ import annotations

import logging
from pathlib import Path

from fairseq_ats.convert.held_out import HeldOut, tune
from fairseq_ats.convert.output_check import check_output
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import read_source
from fairseq_ats.convert.verification import engine_of, read_sentences
from fairseq_ats.data.text import READS_TOKENS, Text
from fairseq_ats.files import written_whole
from fairseq_ats.host.safetensors_file import SUFFIX
from fairseq_ats.inference.engine import Search
from fairseq_ats.partition.partition import CORE, CORE_LEVEL, check_level_name

logger = logging.getLogger(__name__)


def convert(
    checkpoint: str | Path,
    level: str | int,
    output_format: OutputFormat,
    output: str | Path,
    data: str | Path | None = None,
    sentencepiece_model: str | Path | None = None,
    verify_on: str | Path | None = None,
    beam: int = Search.beam,
    overwrite: bool = False,
    tune_on: str | None = None,
) -> None:
    """Convert one network of a checkpoint. Leave nothing behind if the conversion fails.

    Args:
        level: "core", "super", "level2", ..., or the level's number.
        data, sentencepiece_model: see :func:`~fairseq_ats.convert.source_network.read_source`.
        verify_on: text file. The best hypotheses of the source and of the result must agree on its sentences (see
            :func:`~fairseq_ats.convert.verification.check_same_beams`). The text is raw if there is a sentencepiece
            model, otherwise tokens with spaces between them.
        beam: beam width for ``verify_on``.
        overwrite: replace an existing output.
        tune_on: for a format that keeps a beam, a split of the binarised data on which to choose that beam and the
            length penalty (see :func:`~fairseq_ats.convert.held_out.tune`).

    Raises:
        ValueError: the checkpoint or an option is not allowed.
        VerificationError: the result and its source do not compute the same.
    """
    check_level_name(level)
    checkpoint, output = Path(checkpoint), Path(output)
    data, sentencepiece_model, verify_on = (
        None if path is None else Path(path) for path in (data, sentencepiece_model, verify_on)
    )
    output_format.require_packages()
    if tune_on is not None and not output_format.keeps_beam:
        raise ValueError(f"--tune-on is {tune_on}, and this format keeps no beam; it goes with ctranslate2 and onnx")
    if output.suffix == SUFFIX and not output_format.writes_safetensors:
        raise ValueError(f"--output is {output}, and only --to core writes {SUFFIX}; give another ending")
    if not checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {checkpoint}")
    inputs = [path for path in (checkpoint, data, sentencepiece_model, verify_on) if path is not None]
    check_output(output, inputs, output_format.is_folder, overwrite)
    source = read_source(checkpoint, level, data, sentencepiece_model)
    if source.partition.extension_arch is not None and source.level > CORE_LEVEL:
        raise ValueError(
            f"--level is {level} and {checkpoint} holds a pair of networks, whose super-network is no Transformer; "
            f"allowed: {CORE}; fairseq-generate and fairseq-ats translate run both"
        )
    output_format.check(source)
    held_out = None if tune_on is None else HeldOut.read(source, tune_on)
    text = Text(source.sentencepiece_model, source.data.lowercase)
    if source.sentencepiece_model is None:
        logger.warning(f"{source.data.path} has {READS_TOKENS}")
    sentences = []
    if verify_on is not None:
        sentences = read_sentences(verify_on, text, engine_of(source.model, source.task, beam).max_source_pieces)
    logger.info(f"{source.title} of {checkpoint}, {source.parameters:,} parameters")
    with written_whole(output, output_format.is_folder) as new:
        for line in output_format.write(source, new):
            logger.info(line)
        for line in output_format.verify(source, new, sentences, beam):
            logger.info(line)
        if held_out is not None:
            for line in tune(new, held_out):
                logger.info(line)
    logger.info(f"wrote {output} ({size_on_disk(output):,} bytes)")


def size_on_disk(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder and its subfolders."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())

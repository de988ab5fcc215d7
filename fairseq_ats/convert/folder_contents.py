"""Complete a folder so that it translates text by itself: dictionaries, sentencepiece model, description."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import torch

import fairseq_ats
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.data.folder import SENTENCEPIECE_MODEL
from fairseq_ats.inference.deployed_folder import DeployedFolder


def write_dictionaries(source: SourceNetwork, folder: Path) -> tuple[str, str]:
    """Write the dictionaries of both languages as ``dict.LANGUAGE.txt``, fairseq's names, and return the file names.

    Raises:
        ValueError: a dictionary has an entry twice.
    """
    names = f"dict.{source.task.cfg.source_lang}.txt", f"dict.{source.task.cfg.target_lang}.txt"
    for name, dictionary in zip(names, (source.task.source_dictionary, source.task.target_dictionary), strict=True):
        if len(dictionary.indices) < len(dictionary.symbols):
            # fairseq does not write the flag back (fairseq/data/dictionary.py:290), and could not read the file.
            raise ValueError(
                f"{source.data.path / name} has an entry twice, by #fairseq:overwrite, and this format cannot keep it"
            )
        dictionary.save(str(folder / name))
    return names


def complete_folder(
    source: SourceNetwork,
    folder: Path,
    output_format: str,
    weights: str,
    package: str,
    pieces: str = SENTENCEPIECE_MODEL,
) -> None:
    """Write everything that translating text needs into ``folder``, beside the network.

    Args:
        output_format, weights: as in :mod:`fairseq_ats.inference.deployed_folder`.
        package: the package that reads the network; the description records its version.
        pieces: name of the sentencepiece model in the folder.
    """
    dictionaries = write_dictionaries(source, folder)
    if source.sentencepiece_model is not None:
        shutil.copyfile(source.sentencepiece_model, folder / pieces)
    DeployedFolder(
        format=output_format,
        network=source.name,
        partition=source.partition,
        source_language=source.task.cfg.source_lang,
        target_language=source.task.cfg.target_lang,
        source_dictionary=dictionaries[0],
        target_dictionary=dictionaries[1],
        sentencepiece_model=None if source.sentencepiece_model is None else pieces,
        lowercase=source.data.lowercase,
        weights=weights,
        max_source_positions=source.model.max_positions()[0],
        max_target_positions=source.model.max_positions()[1],
        versions={
            "fairseq_ats": fairseq_ats.__version__,
            "torch": torch.__version__,
            package: version(package),
        },
    ).write(folder)

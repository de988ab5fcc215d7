"""Translate binarised training data with a trained network, for a smaller network to learn from.

This is sequence-level distillation (Kim and Rush, EMNLP 2016). Data go in and out as pieces: nothing is cut into pieces
a second time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fairseq.data.data_utils import load_indexed_dataset
from fairseq.data.indexed_dataset import make_builder

from fairseq_ats.data.binarise import STAMP
from fairseq_ats.data.checks import check_split, dictionary_sum, parts_of, read_dictionary
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.files import made_once, sha256_of, stamp_of
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.translator import BUFFER_SIZE, Translator

SPLIT = "train"


def distil(
    data: DataFolder,
    translator: Translator,
    made_of: dict[str, Any],
    output: Path,
    progress: Callable[[Iterator[Any], int], Iterator[Any]],
) -> bool:
    """Write ``output``: the data with the network's translations as targets of the training split.

    All other files are copied, so that the folder serves as ``--core-data`` and as DATA of a training of its own. The
    folder is written whole or not at all.

    Args:
        made_of: what the translations depend on, for the stamp of the folder, in values for JSON.
        progress: wraps the iterator over the sentences of a part, whose number it is told.

    Returns:
        False if the folder is there already, made of the same.

    Raises:
        ValueError: the data are damaged, or ``output`` holds other files.
    """
    languages = data.languages
    parts = list(parts_of(data.path, SPLIT, *languages))
    if not parts:
        raise ValueError(f"{data.path} has no {SPLIT} of {languages[0]}-{languages[1]}")
    stamp = (stamp_of(data.path, STAMP) or _sums(data, parts)) | {"targets": made_of}
    there = stamp_of(output, STAMP)
    if there == stamp:
        return False
    if output.resolve() == data.path.resolve() or (there and "targets" not in there):
        raise ValueError(f"OUTPUT is {output}, which holds data that distil did not write; give another folder")
    source, target = (read_dictionary(data.path / f"dict.{language}.txt") for language in languages)
    check_split(data.path, SPLIT, list(zip(languages, (source, target), strict=True)))
    replaced = {f"{part}.{languages[1]}.{end}" for part in parts for end in ("bin", "idx")}
    with made_once(output, STAMP, stamp) as folder:
        for path in data.path.iterdir():
            if path.is_file() and path.name not in replaced | {STAMP}:
                shutil.copy(path, folder)
        for part in parts:
            sources = load_indexed_dataset(str(data.path / f"{part}.{languages[0]}"), source, "mmap")
            prefix = str(folder / f"{part}.{languages[1]}")
            builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(target))
            sentences = ([source[token] for token in line.tolist() if token != source.eos()] for line in sources)
            shown = progress(sentences, len(sources))
            while buffer := list(islice(shown, BUFFER_SIZE)):
                for pieces in translator.translate_pieces(buffer):
                    builder.add_item(target.encode_line(" ".join(pieces), add_if_not_exist=False))
            builder.finalize(f"{prefix}.idx")
    return True


def check_dictionaries(model: Path, data: DataFolder) -> None:
    """Raise ValueError if a folder that was converted has other dictionaries than the data."""
    folder = DeployedFolder.read(model)
    names = (folder.source_dictionary, folder.target_dictionary)
    for language, name in zip(data.languages, names, strict=True):
        own = data.path / f"dict.{language}.txt"
        if dictionary_sum(read_dictionary(own)) != dictionary_sum(read_dictionary(model / name)):
            raise ValueError(f"MODEL is {model}, whose {name} is not that of {data.path}; use a network of these data")


def _sums(data: DataFolder, parts: Sequence[str]) -> dict[str, str]:
    """Return what tells data apart that ``fairseq-preprocess`` wrote, without a stamp of ours."""
    names = [f"dict.{language}.txt" for language in data.languages]
    names += [f"{part}.{data.source_language}.{end}" for part in parts for end in ("bin", "idx")]
    return {name: sha256_of(data.path / name) for name in names}

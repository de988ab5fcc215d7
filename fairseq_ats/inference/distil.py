"""Translate binarised training data with a trained network, for a smaller network to learn from.

This is sequence-level distillation (Kim and Rush, EMNLP 2016). Data go in and out as pieces: nothing is cut into pieces
a second time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from fairseq.data.indexed_dataset import make_builder

from fairseq_ats.data.binarise import STAMP
from fairseq_ats.data.checks import check_split, parts_of
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.files import made_once, stamp_of
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
    stamp = stamp_of(data.path, STAMP) | {"targets": made_of}
    if stamp_of(output, STAMP) == stamp:
        return False
    languages = data.source_language, data.target_language
    source, target = (Dictionary.load(str(data.path / f"dict.{language}.txt")) for language in languages)
    check_split(data.path, SPLIT, list(zip(languages, (source, target), strict=True)))
    parts = list(parts_of(data.path, SPLIT, *languages))
    if not parts:
        raise ValueError(f"{data.path} has no {SPLIT} of {languages[0]}-{languages[1]}")
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

"""Check that binarised data are whole, before they are used.

fairseq takes ``SPLIT.SRC-TGT.LANGUAGE.idx`` and ``.bin`` as they are. An index that does not fit its data reads other
sentences, or stops a training days later. A token number outside the dictionary reads another embedding, or ends in an
IndexError.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.data_utils import get_buckets
from fairseq.utils import split_paths

# Formats of fairseq/data/indexed_dataset.py: MMapIndexedDataset.Index, and _code_to_dtype for the types of tokens.
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of tokens, number of sentences
_TOKEN_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16, 9: np.uint32}

_CHUNK = 2**24  # tokens that are read at once


def folder_of(data: str, split: str, epoch: int, train_subset: str) -> str:
    """Return where fairseq reads a split (fairseq/tasks/translation.py:329); training data may have several folders."""
    folders = split_paths(data)
    return folders[(epoch - 1) % len(folders)] if split == train_subset else folders[0]


def folder_problems(data: str) -> list[str]:
    """Return the problem of ``DATA`` if its first folder has no dictionary."""
    folder = Path(split_paths(data)[0])
    if any(folder.glob("dict.*.txt")):
        return []
    return [f"{folder} is not a folder of binarised data: it has no dict.LANGUAGE.txt (see fairseq-preprocess)"]


def read_dictionary(path: str | Path) -> Dictionary:
    """Read ``dict.LANGUAGE.txt``.

    Raises:
        ValueError: the file has an entry twice, is not UTF-8, or is not a dictionary.
    """
    try:
        return Dictionary.load(str(path))
    except OSError:
        raise
    except Exception as error:  # fairseq raises just that where the file is not UTF-8 (fairseq/data/dictionary.py:243)
        raise ValueError(f"{path} cannot be read as a dictionary: {error}") from error


def dictionary_sum(dictionary: Dictionary) -> str:
    """Return the SHA-256 of the symbols in order; it tells dictionaries of one size apart."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()


def check_split(folder: str | Path, split: str, dictionaries: Sequence[tuple[str, Dictionary]]) -> None:
    """Check every file of a split that is in fairseq's default format (``--dataset-impl mmap``).

    An index must have the length that it says, place sentences one behind the other, and cover its data to the last
    byte. Both languages must have the same number of sentences. Every token must be in its dictionary; a wrong token
    that is in the dictionary goes unnoticed. All data are read once, as fairseq does when it opens them.

    Args:
        folder: one folder of binarised data.
        split: "train", "valid", ...; the files of ``split1``, ``split2``, ... belong to it.
        dictionaries: pairs of language and dictionary, the source first.

    Raises:
        ValueError: a file is damaged, or does not fit the others.
    """
    (source, _), (target, _) = dictionaries
    for pair in parts_of(folder, split, source, target):
        counts = {}
        for language, dictionary in dictionaries:
            prefix = os.path.join(folder, f"{pair}.{language}")
            if os.path.isfile(f"{prefix}.idx") and os.path.isfile(f"{prefix}.bin"):
                counts[language] = _check_file(prefix, dictionary)
        if len(set(counts.values()) - {None}) > 1:
            said = " and ".join(f"{count:,} of {language}" for language, count in counts.items())
            raise ValueError(f"{folder}/{pair} has {said} sentences; binarise it again")


def parts_of(folder: str | Path, split: str, source: str, target: str) -> Iterator[str]:
    """Yield the beginnings of the file names of ``split``, ``split1``, ``split2``, ..."""
    for number in itertools.count():
        name = f"{split}{number or ''}"
        pairs = [f"{name}.{source}-{target}", f"{name}.{target}-{source}"]
        pair = next((p for p in pairs if os.path.isfile(os.path.join(folder, f"{p}.{source}.idx"))), None)
        if pair is None:
            return
        yield pair


def check_upsampling(folders: Sequence[str], split: str, source: str, target: str, upsample_primary: int) -> None:
    """Check that the parts of a split can be put together.

    fairseq takes the first of several parts ``--upsample-primary`` times (fairseq/tasks/translation.py:119), by default
    -1 times, and fails with "negative dimensions are not allowed".

    Raises:
        ValueError: a folder has several parts, and the option was not given.
    """
    if upsample_primary >= 0:
        return
    for folder in folders:
        parts = list(parts_of(folder, split, source, target))
        if len(parts) > 1:
            raise ValueError(
                f"{folder} has {' and '.join(parts)}, and --upsample-primary is {upsample_primary}; allowed: how often "
                f"{parts[0]} is to be taken, 1 or more"
            )


def buckets_problem(num_batch_buckets: int) -> str | None:
    """Return why fairseq cannot put sentences into buckets by length (``--num-batch-buckets``); None if it can."""
    if num_batch_buckets <= 0:
        return None
    try:
        # It calls numpy.percentile with an argument that numpy 2.4 does not have (fairseq/data/data_utils.py:880).
        get_buckets(np.arange(2), 1)
    except TypeError as error:
        return (
            f"--num-batch-buckets is {num_batch_buckets}, for which fairseq calls numpy in a way that numpy "
            f"{np.__version__} has not ({error}); leave it out"
        )
    return None


def _check_file(prefix: str, dictionary: Dictionary) -> int | None:
    """Check one file; return its number of sentences, or None if it has another format, which is left to fairseq."""
    size = os.path.getsize(f"{prefix}.idx")
    with open(f"{prefix}.idx", "rb") as file:
        header = file.read(_HEADER.size)
    if not header.startswith(_MAGIC[:8]) and header[:6] in (b"TNTIDX", b"HUFFID"):
        return None
    if len(header) < _HEADER.size:
        raise ValueError(f"{prefix}.idx ({size:,} bytes) is truncated; binarise the data again")
    magic, version, code, sentences = _HEADER.unpack(header)
    if magic != _MAGIC or version != 1 or code not in _TOKEN_TYPES:
        raise ValueError(f"{prefix}.idx is damaged, or not an index of fairseq-preprocess; binarise the data again")
    if size != _HEADER.size + sentences * (4 + 8):
        raise ValueError(f"{prefix}.idx has {size:,} bytes, which is not an index of {sentences:,} sentences")
    lengths = np.fromfile(f"{prefix}.idx", np.int32, sentences, offset=_HEADER.size)
    places = np.fromfile(f"{prefix}.idx", np.int64, sentences, offset=_HEADER.size + 4 * sentences)
    tokens = np.dtype(_TOKEN_TYPES[code])
    ends = np.cumsum(lengths, dtype=np.int64) * tokens.itemsize
    if (lengths < 1).any() or not np.array_equal(places[1:], ends[:-1]) or places[:1].any():
        raise ValueError(f"{prefix}.idx is damaged: its sentences do not lie one behind the other")
    held, expected = os.path.getsize(f"{prefix}.bin"), int(ends[-1]) if sentences else 0
    if held != expected:
        raise ValueError(f"{prefix}.bin has {held:,} bytes, and by its index {expected:,}; binarise the data again")
    _check_tokens(f"{prefix}.bin", tokens, dictionary)
    return sentences


def _check_tokens(path: str, kind: np.dtype, dictionary: Dictionary) -> None:
    for start in range(0, os.path.getsize(path) // kind.itemsize, _CHUNK):
        chunk = np.fromfile(path, kind, _CHUNK, offset=start * kind.itemsize)
        least, most = int(chunk.min()), int(chunk.max())
        if least < 0 or most >= len(dictionary):
            raise ValueError(
                f"{path} has the token {least if least < 0 else most}, and its dictionary has {len(dictionary):,}; "
                "the data are damaged, or were binarised with another dictionary"
            )

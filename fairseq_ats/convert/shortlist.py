"""Choose the pieces that may translate each source piece: the shortlist of ``--to ctranslate2``.

With a shortlist the output layer computes the candidates of a batch's pieces, and not the whole vocabulary. CTranslate2
reads it from ``vmap.txt``. A line has a source piece, a tab, and its candidates with spaces between them; candidates
without a source piece belong to every sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_ats.convert.held_out import read_split, split_is_there
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.data.lines import read_lines, write_lines

Array = np.ndarray

# The likeliest translations of each piece, and the most frequent target pieces. Measured on Multi30k with 10,000 pieces
# and a cut-short training: 50 and 300 lost 0.0 to 0.3 BLEU, 20 and 100 up to 0.9.
CANDIDATES = 50
FREQUENT = 300

# Of IBM model 1. A fifth iteration changes few of the 50 likeliest.
_ITERATIONS = 5
# Pairs of tokens that it reads: about 40 bytes of memory and half a microsecond for each. Larger data are read in part.
_MOST_LINKS = 20_000_000


def check_shortlist(given: str, source: SourceNetwork) -> None:
    """Check ``--shortlist`` before any work.

    Args:
        given: a split of the binarised data, or a file in the format of ``vmap.txt``.

    Raises:
        ValueError: ``given`` is neither, or the file has pieces that are not in the network's dictionaries.
    """
    if split_is_there(source, given):
        return
    if not Path(given).is_file():
        raise ValueError(
            f"--shortlist is {given}; allowed: a split of the binarised data in {source.data.path}, such as train, or "
            "a file like vmap.txt of a converted folder"
        )
    for number, line in enumerate(read_lines(Path(given)), start=1):
        piece, tab, candidates = line.partition("\t")
        unknown = [p for p in candidates.split(" ") if p not in source.task.target_dictionary]
        unknown += [piece] if piece and piece not in source.task.source_dictionary else []
        if not tab or unknown:
            what = f"has {unknown[0]!r}, which is not in the dictionaries of the network" if tab else "has no tab"
            raise ValueError(f"--shortlist is {given}, whose line {number} {what}")


def write_shortlist(given: str, source: SourceNetwork, path: Path) -> Iterator[str]:
    """Write the shortlist to ``path``, made from a split or copied from a file; yield a line for the log."""
    if not split_is_there(source, given):
        path.write_bytes(Path(given).read_bytes())
        yield f"shortlist: that of {given}"
        return
    sides = read_split(source, given)
    sources, targets = source.task.source_dictionary, source.task.target_dictionary
    write_lines(path, shortlist_lines(*sides, sources, targets))
    yield f"shortlist: up to {CANDIDATES} candidates for each piece and {FREQUENT} for every sentence, from {given}"


def shortlist_lines(
    sources: Sequence[Array], targets: Sequence[Array], source_dictionary: Dictionary, target_dictionary: Dictionary
) -> Iterator[str]:
    """Yield the lines of the shortlist of sentence pairs.

    The candidates of a piece are the likeliest by IBM model 1, and the piece itself if the target language has it:
    names and numbers are copied.

    Args:
        sources, targets: the numbers of the pieces of each sentence.
    """
    counts = np.bincount(np.concatenate(targets), minlength=len(target_dictionary))
    frequent = np.argsort(-counts, kind="stable")[:FREQUENT]
    yield "\t" + " ".join(target_dictionary[n] for n in frequent.tolist() if counts[n] > 0)

    likely: dict[int, list[int]] = {}
    every = max(1, -(-sum(len(s) * len(t) for s, t in zip(sources, targets, strict=True)) // _MOST_LINKS))
    source_of, target_of, probability = translation_probabilities(sources[::every], targets[::every])
    for index in np.lexsort((-probability, source_of)).tolist():
        of_piece = likely.setdefault(int(source_of[index]), [])
        if len(of_piece) < CANDIDATES:
            of_piece.append(int(target_of[index]))
    for number in range(source_dictionary.nspecial, len(source_dictionary)):
        candidates = [target_dictionary[n] for n in likely.get(number, [])]
        if source_dictionary[number] in target_dictionary:
            candidates.append(source_dictionary[number])
        if candidates:
            yield f"{source_dictionary[number]}\t{' '.join(dict.fromkeys(candidates))}"


def translation_probabilities(sources: Iterable[Array], targets: Iterable[Array]) -> tuple[Array, Array, Array]:
    r"""Estimate how likely each target piece translates each source piece.

    IBM model 1 without the empty word (Brown et al., 1993, "The Mathematics of Statistical Machine Translation",
    section 4.2): :math:`t(e \mid f) \leftarrow \frac{c(e, f)}{\sum_{e'} c(e', f)}`, where :math:`c` sums
    :math:`t(e \mid f) / \sum_{f'} t(e \mid f')` over the sentence pairs, :math:`f'` over the source sentence.

    Returns:
        The pairs that share a sentence pair: the numbers of their source pieces, of their target pieces, and their
        probabilities, each (pairs).
    """
    together: list[Array] = []
    lengths: list[Array] = []
    base = 1 << 32
    for source, target in zip(sources, targets, strict=True):
        if len(source) == 0:
            continue
        together.append((source.astype(np.int64)[None, :] * base + target[:, None]).ravel())
        lengths.append(np.full(len(target), len(source)))
    # One group of links for each target token of each sentence: to every source token of the sentence.
    pairs, links = np.unique(np.concatenate(together), return_inverse=True)
    sizes = np.concatenate(lengths)
    starts = np.cumsum(sizes) - sizes
    source_of, target_of = pairs // base, pairs % base
    probability = np.ones(len(pairs))
    for _ in range(_ITERATIONS):
        weights = probability[links]
        weights /= np.repeat(np.add.reduceat(weights, starts), sizes)
        counted = np.bincount(links, weights, len(pairs))
        probability = counted / np.bincount(source_of, counted)[source_of]
    return source_of, target_of, probability

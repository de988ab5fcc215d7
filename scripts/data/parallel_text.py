"""Clean parallel text, a stream of sentence pairs, as fairseq's recipes do before they cut it into pieces.

The recipes are examples/translation/prepare-iwslt14.sh and prepare-wmt14en2de.sh of fairseq; the paper names no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

Pair = tuple[str, str]

SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')
NOT_TEXT = ("<url>", "<talkid>", "<keywords>")
AROUND_TEXT = re.compile("</?(?:title|description)>")


def in_step(sources: Iterable[str], targets: Iterable[str], names: tuple[str, str]) -> Iterator[Pair]:
    """Pair two texts line by line.

    Raises:
        ValueError: they have different numbers of lines; this shows at the end only, since streams have no length.
    """
    counts = [0, 0]
    for pair in zip_longest(sources, targets):
        for side, line in enumerate(pair):
            counts[side] += line is not None
        if None not in pair:
            yield pair
    if counts[0] != counts[1]:
        raise ValueError(f"{names[0]} has {counts[0]} lines and {names[1]} has {counts[1]}; they must be equal")


def talk_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of IWSLT's ``train.tags``, without the lines about a talk and the tags of title and summary."""
    for line in lines:
        if not any(tag in line for tag in NOT_TEXT):
            yield AROUND_TEXT.sub("", line)


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a test set in IWSLT's XML or WMT's SGML, which no XML parser reads.

    Apostrophes become typewriter apostrophes. Entities stay as they are, as in fairseq's recipes and in sacreBLEU's
    references.
    """
    for line in lines:
        found = SEGMENT.search(line)
        if found:
            yield found[1].replace("’", "'")


def held_out(pairs: Iterable[Pair], every: int) -> Iterator[tuple[str, Pair]]:
    """Yield each pair with its split: every ``every``-th, counted from 1, is for validation."""
    for number, pair in enumerate(pairs, start=1):
        yield ("valid" if number % every == 0 else "train"), pair


def write_splits(folder: Path, languages: Pair, pairs: Iterable[tuple[str, Pair]]) -> dict[str, int]:
    """Write the files ``SPLIT.LANGUAGE`` of train, valid and test; return the number of pairs in each.

    Raises:
        ValueError: a split is empty.
    """
    splits = ("train", "valid", "test")
    counts = dict.fromkeys(splits, 0)
    paths = {split: [folder / f"{split}.{language}" for language in languages] for split in splits}
    files = {split: [path.open("w", encoding="utf-8", newline="\n") for path in paths[split]] for split in splits}
    try:
        for split, pair in pairs:
            counts[split] += 1
            for file, line in zip(files[split], pair, strict=True):
                file.write(line + "\n")
    finally:
        for file in (file for both in files.values() for file in both):
            file.close()
    for split, count in counts.items():
        if count == 0:
            raise ValueError(f"no sentence pair is left for {split}")
    return counts


def moses_token_counter(language: str) -> Callable[[str], int]:
    """Return a function that counts the tokens that Moses' tokeniser makes of a line."""
    from sacremoses import MosesTokenizer  # takes half a second, and a call with nothing to do needs none of it

    tokenizer = MosesTokenizer(language)
    return lambda line: len(tokenizer.tokenize(line, escape=False))


def moses_normaliser(language: str) -> Callable[[str], str]:
    """Return Moses' ``normalize-punctuation.perl`` and ``remove-non-printing-char.perl``, in this order.

    The second script turns ``\\p{C}`` into a space; sacremoses' own version removes it, which joins words.
    """
    import regex
    from sacremoses import MosesPunctNormalizer

    normaliser = MosesPunctNormalizer(language, perl_parity=True)
    not_printing = regex.compile(r"\p{C}")
    return lambda line: not_printing.sub(" ", normaliser.normalize(line))

"""Clean a stream of sentence pairs as fairseq's recipes do before they split the text into pieces.

The recipes are fairseq's examples/translation/prepare-iwslt14.sh and prepare-wmt14en2de.sh. The paper names no other
recipe.
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
        ValueError: the texts have different numbers of lines. This is raised only after the last line, because the
            length of a stream is not known before.
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
    """Yield the text of IWSLT's ``train.tags``.

    Drop the lines with metadata of a talk, and the tags around titles and summaries.
    """
    for line in lines:
        if not any(tag in line for tag in NOT_TEXT):
            yield AROUND_TEXT.sub("", line)


def segments(lines: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a test set in IWSLT's XML or WMT's SGML, which an XML parser cannot read.

    Replace typographic apostrophes by typewriter apostrophes. Keep entities as they are, as fairseq's recipes and
    sacreBLEU's references do.
    """
    for line in lines:
        found = SEGMENT.search(line)
        if found:
            yield found[1].replace("’", "'")


def held_out(pairs: Iterable[Pair], every: int) -> Iterator[tuple[str, Pair]]:
    """Yield each pair with its split. Every ``every``-th pair, counted from 1, is for validation."""
    for number, pair in enumerate(pairs, start=1):
        yield ("valid" if number % every == 0 else "train"), pair


def write_splits(folder: Path, languages: Pair, pairs: Iterable[tuple[str, Pair]]) -> dict[str, int]:
    """Write the files ``SPLIT.LANGUAGE`` for train, valid and test, and return the number of pairs in each split.

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
    """Return a function that counts the tokens of a line, as Moses' tokeniser splits it."""
    from sacremoses import MosesTokenizer  # late: it takes half a second, which a call with nothing to do saves

    tokenizer = MosesTokenizer(language)
    return lambda line: len(tokenizer.tokenize(line, escape=False))


def moses_normaliser(language: str) -> Callable[[str], str]:
    """Return a function that does what Moses' ``normalize-punctuation.perl`` and ``remove-non-printing-char.perl`` do.

    It does the two in this order. The second script replaces ``\\p{C}`` by a space. sacremoses' own version removes
    these characters, and so joins words.
    """
    import regex
    from sacremoses import MosesPunctNormalizer

    normaliser = MosesPunctNormalizer(language, perl_parity=True)
    not_printing = regex.compile(r"\p{C}")
    return lambda line: not_printing.sub(" ", normaliser.normalize(line))

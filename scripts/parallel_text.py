"""Parallel text as a stream of sentence pairs: what fairseq's recipes do with it before it is cut into pieces.

The recipes are examples/translation/prepare-iwslt14.sh and prepare-wmt14en2de.sh of fairseq; the paper names no other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

Pair = tuple[str, str]

SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')
NOT_TEXT = ("<url>", "<talkid>", "<keywords>")
AROUND_TEXT = re.compile("</?(?:title|description)>")
# Unicode's categories of spaces, line separators, control and formatting characters.
UNSEEN = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf"))


def count_lines(lines: Iterable[str], name: str | Path) -> tuple[int, int]:
    """How many lines there are, and how many of them are blank: nothing in them can be seen.

    Raises:
        ValueError: all lines are blank.
    """
    total = blank = 0
    for line in lines:
        total += 1
        blank += all(unicodedata.category(character) in UNSEEN for character in line)
    if total > 0 and blank == total:
        raise ValueError(f"{name} is blank: nothing is in any of its {total:,} lines")
    return total, blank


def in_step(sources: Iterable[str], targets: Iterable[str], names: tuple[str, str]) -> Iterator[Pair]:
    """Pair two texts line by line.

    Raises:
        ValueError: they have different numbers of lines; said at the end, since streams have no length.
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
    """The text of IWSLT's ``train.tags``: without the lines about a talk, and without the tags of title and summary."""
    for line in lines:
        if not any(tag in line for tag in NOT_TEXT):
            yield AROUND_TEXT.sub("", line)


def segments(lines: Iterable[str]) -> Iterator[str]:
    """The sentences of a test set, IWSLT's XML or WMT's SGML (no XML parser reads it), typewriter apostrophes in them.

    Entities stay as they are, as in fairseq's recipes and in sacreBLEU's references.
    """
    for line in lines:
        found = SEGMENT.search(line)
        if found:
            yield found[1].replace("’", "'")


def fits(source_tokens: int, target_tokens: int, longest: int, ratio: float) -> bool:
    """Whether Moses' ``clean-corpus-n.perl -ratio RATIO 1 LONGEST`` keeps a pair with so many tokens."""
    shorter, longer = sorted((source_tokens, target_tokens))
    return shorter >= 1 and longer <= longest and longer <= ratio * shorter


def held_out(pairs: Iterable[Pair], every: int) -> Iterator[tuple[str, Pair]]:
    """Each pair with its split: every ``every``-th, counted from 1, is for validation."""
    for number, pair in enumerate(pairs, start=1):
        yield ("valid" if number % every == 0 else "train"), pair


def write_splits(folder: Path, languages: Pair, pairs: Iterable[tuple[str, Pair]]) -> dict[str, int]:
    """Write ``SPLIT.LANGUAGE`` files of train, valid and test; the number of pairs in each.

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
    """How many tokens Moses' tokeniser makes of a line."""
    from sacremoses import MosesTokenizer  # half a second, which a call with nothing to do need not wait for

    tokenizer = MosesTokenizer(language)
    return lambda line: len(tokenizer.tokenize(line, escape=False))


def moses_normaliser(language: str) -> Callable[[str], str]:
    """Moses' ``normalize-punctuation.perl`` and ``remove-non-printing-char.perl``, in this order.

    The latter's ``\\p{C}`` becomes a space; sacremoses' own version removes it, which joins words.
    """
    import regex
    from sacremoses import MosesPunctNormalizer

    normaliser = MosesPunctNormalizer(language, perl_parity=True)
    not_printing = regex.compile(r"\p{C}")
    return lambda line: not_printing.sub(" ", normaliser.normalize(line))

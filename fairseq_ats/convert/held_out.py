"""Measure a converted folder on held-out data: what a shortlist costs and saves, and which beam is enough."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
import torch
from fairseq.data.data_utils import load_indexed_dataset

from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.data.checks import check_split, parts_of
from fairseq_ats.data.text import Pieces, Text
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.translator import Translator

VALID = "valid"

# The settings that --tune-on compares, and the BLEU that a narrower beam may lose. Not in the paper.
BEAMS = (1, 2, 3, 5)
LENGTH_PENALTIES = (0.6, 1.0, 1.4)
MOST_LOST = 0.1

_MOST_SENTENCES = 500
_AT_ONCE = 100


def split_is_there(source: SourceNetwork, split: str) -> bool:
    """Return whether the binarised data have the split, in both languages."""
    prefixes = _prefixes(source, split)
    return bool(prefixes) and all(Path(f"{prefix}.idx").is_file() for prefix in prefixes)


def read_split(source: SourceNetwork, split: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the numbers of the pieces of each sentence, without its end: source and target language.

    Raises:
        ValueError: the split is not there, or damaged.
    """
    if not split_is_there(source, split):
        raise ValueError(f"{source.data.path} has no binarised {split}, on which the conversion is measured")
    dictionaries = (source.task.source_dictionary, source.task.target_dictionary)
    check_split(source.data.path, split, list(zip(source.data.languages, dictionaries, strict=True)))
    one, other = (
        [sentence.numpy()[:-1] for sentence in load_indexed_dataset(prefix, dictionary)]
        for prefix, dictionary in zip(_prefixes(source, split), dictionaries, strict=True)
    )
    return one, other


def _prefixes(source: SourceNetwork, split: str) -> list[str]:
    """Return the paths of the split in both languages, without their ends; nothing if it is not there."""
    data = source.data
    pair = next(parts_of(data.path, split, *data.languages), None)
    return [] if pair is None else [str(data.path / f"{pair}.{language}") for language in data.languages]


@dataclass(frozen=True)
class HeldOut:
    """Sentences that a network was not trained on.

    Args:
        sources: the pieces of each sentence.
        references: the text of its translation.
        text: puts pieces together.
    """

    sources: list[Pieces]
    references: list[str]
    text: Text

    @classmethod
    def read(cls, source: SourceNetwork, split: str = VALID) -> HeldOut:
        """Read the first sentences of a split.

        Raises:
            ValueError: the split is not there or damaged.
        """
        text = Text(source.sentencepiece_model, source.data.lowercase)
        dictionaries = (source.task.source_dictionary, source.task.target_dictionary)
        one, other = (
            [[dictionary[n] for n in numbers.tolist()] for numbers in sentences[:_MOST_SENTENCES]]
            for sentences, dictionary in zip(read_split(source, split), dictionaries, strict=True)
        )
        return cls(one, [text.decode(pieces) for pieces in other], text)

    def bleu(self, translations: Sequence[Pieces]) -> float:
        return sacrebleu.BLEU().corpus_score([self.text.decode(t) for t in translations], [self.references]).score

    def words(self, translations: Sequence[Pieces]) -> int:
        return sum(len(self.text.decode(pieces).split()) for pieces in translations)

    def translate(self, translators: Sequence[Translator]) -> list[tuple[list[Pieces], float]]:
        """Translate with each in turn, some sentences at a time, and return its translations and CPU seconds."""
        found: list[tuple[list[Pieces], float]] = [([], 0.0) for _ in translators]
        for start in range(0, len(self.sources), _AT_ONCE):
            for number, translator in enumerate(translators):
                before = time.process_time()
                new = translator.translate_pieces(self.sources[start : start + _AT_ONCE])
                translations, seconds = found[number]
                found[number] = ([*translations, *new], seconds + time.process_time() - before)
        return found


def compare_shortlist(folder: Path, held_out: HeldOut) -> Iterator[str]:
    """Yield a line on what the folder's shortlist changes: BLEU, translations and speed."""
    (without, seconds), (with_it, fewer) = held_out.translate([_open(folder, shortlist=used) for used in (False, True)])
    equal = sum(a == b for a, b in zip(without, with_it, strict=True))
    yield (
        f"shortlist: BLEU {held_out.bleu(without):.2f} without and {held_out.bleu(with_it):.2f} with it, {equal} of "
        f"{len(without)} translations equal, {seconds / fewer:.2f} times as fast (CPU time, beam "
        f"{DeployedFolder.read(folder).beam})"
    )


def tune(folder: Path, held_out: HeldOut) -> Iterator[str]:
    """Choose the beam and the length penalty of the folder, write them into its description, and yield lines.

    Take the narrowest beam that loses at most ``MOST_LOST`` BLEU against the best, with the length penalty that is best
    for it.
    """
    best: dict[int, tuple[float, float]] = {}
    for beam in BEAMS:
        penalties = LENGTH_PENALTIES if beam > 1 else (1.0,)  # one hypothesis: there is nothing to compare
        found = held_out.translate([_open(folder, beam=beam, length_penalty=penalty) for penalty in penalties])
        best[beam] = max(
            (held_out.bleu(translations), p) for (translations, _), p in zip(found, penalties, strict=True)
        )
        bleu, penalty = best[beam]
        speed = held_out.words(found[0][0]) / found[0][1]
        yield f"beam {beam}, length penalty {penalty:g}: BLEU {bleu:.2f}, {speed:,.0f} words a CPU second"
    enough = max(bleu for bleu, _ in best.values()) - MOST_LOST
    beam = min(beam for beam, (bleu, _) in best.items() if bleu >= enough)
    dataclasses.replace(DeployedFolder.read(folder), beam=beam, length_penalty=best[beam][1]).write(folder)
    yield f"chosen: beam {beam}, length penalty {best[beam][1]:g}"


def _open(folder: Path, **options: Any) -> Translator:
    return Translator(folder, threads=torch.get_num_threads(), device="cpu", **options)

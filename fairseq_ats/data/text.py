"""Cut lines of text into pieces, and put pieces together to lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sentencepiece

Pieces = list[str]
Languages = tuple[str, str]  # of the source and of the target

WORD_START = "▁"
READS_TOKENS = "no sentencepiece model: lines are taken as tokens with spaces between them"
_SENTENCE_ENDS = tuple(".!?。！？")


class Text:
    """Cut lines as the training data was cut, and put pieces together as ``fairseq-interactive`` does.

    Args:
        sentencepiece_model: None for a network that reads tokens with spaces between them.
        lowercase: the training data was lower-cased.

    Raises:
        ValueError: the file is no sentencepiece model.
    """

    def __init__(self, sentencepiece_model: Path | None, lowercase: bool = False) -> None:
        self._lowercase = lowercase
        self._processor = None
        if sentencepiece_model is not None:
            try:
                self._processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
            except (OSError, RuntimeError) as error:
                raise ValueError(f"{sentencepiece_model} cannot be read as a sentencepiece model: {error}") from error

    def encode(self, line: str) -> Pieces:
        """Return the pieces of a line; a blank line has none, and an unknown character becomes an unknown piece."""
        line = line.strip()
        if self._lowercase:
            line = line.lower()
        if self._processor is not None:
            # sentencepiece takes UTF-8, which cannot hold half of a surrogate pair.
            line = " ".join(self._processor.encode(line.encode("utf-8", "replace").decode("utf-8"), out_type=str))
        # fairseq-preprocess and fairseq-interactive end a token at any white space, also at one inside a piece.
        return line.split()

    def decode(self, pieces: Pieces) -> str:
        """Return the line that pieces make."""
        if self._processor is None:
            return " ".join(pieces)
        # As fairseq does, and not as the processor would: an unknown piece becomes "<unk>"
        # (fairseq/data/encoders/sentencepiece_bpe.py:51).
        return "".join(pieces).replace(WORD_START, " ").strip()


def parts(pieces: Pieces, limit: int) -> Iterator[Pieces]:
    """Cut a sentence that is too long for a network into parts of at most ``limit`` pieces.

    Cut after the last end of a sentence in the second half of a part; else before its last word; else anywhere.
    """
    while len(pieces) > limit:
        ends = [n for n in range(limit // 2 + 1, limit + 1) if pieces[n - 1].endswith(_SENTENCE_ENDS)]
        words = [n for n in range(1, limit + 1) if pieces[n].startswith(WORD_START)]
        cut = (ends or words or [limit])[-1]
        yield pieces[:cut]
        pieces = pieces[cut:]
    if pieces:
        yield pieces

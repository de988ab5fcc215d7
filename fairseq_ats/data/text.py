"""Lines of text → pieces → lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from fairseq.tokenizer import tokenize_line

Pieces = list[str]

WORD_START = "▁"
READS_TOKENS = "no sentencepiece model: lines are taken as tokens with spaces between them"
_SENTENCE_ENDS = tuple(".!?。！？")


class Text:
    """Cuts lines as the training data was cut, and puts pieces together as ``fairseq-interactive`` does.

    Args:
        sentencepiece_model: None for a network that reads tokens: they are then separated by spaces.
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
        """No piece for a blank line. A character that the dictionary does not know becomes a piece that it does not."""
        line = line.strip()
        if self._lowercase:
            line = line.lower()
        if self._processor is not None:
            # sentencepiece takes UTF-8, in which half of a surrogate pair has no place.
            line = " ".join(self._processor.encode(line.encode("utf-8", "replace").decode("utf-8"), out_type=str))
        # fairseq-preprocess and fairseq-interactive end a token at any white space, also at one inside a piece.
        return tokenize_line(line)

    def decode(self, pieces: Pieces) -> str:
        """One line."""
        if self._processor is None:
            return " ".join(pieces)
        # Not the processor's own decode: fairseq's, of which an unknown piece comes out as "<unk>"
        # (fairseq/data/encoders/sentencepiece_bpe.py:51).
        return "".join(pieces).replace(WORD_START, " ").strip()


def parts(pieces: Pieces, limit: int) -> Iterator[Pieces]:
    """Cut a sentence that is too long for a network into parts of at most ``limit`` pieces.

    Cut is where the last sentence ends in the second half of a part; else before its last word; else anywhere.
    """
    while len(pieces) > limit:
        ends = [n for n in range(limit // 2 + 1, limit + 1) if pieces[n - 1].endswith(_SENTENCE_ENDS)]
        words = [n for n in range(1, limit + 1) if pieces[n].startswith(WORD_START)]
        cut = (ends or words or [limit])[-1]
        yield pieces[:cut]
        pieces = pieces[cut:]
    if pieces:
        yield pieces

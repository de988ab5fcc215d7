"""What every engine does: translate sentences that are cut into pieces."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq_ats.data.text import Pieces

DEVICES = ("auto", "cpu", "cuda")
START = "<s>"


@dataclass(frozen=True)
class Search:
    """How hypotheses are searched for; the options, their meaning and their defaults are ``fairseq-interactive``'s.

    Args:
        beam: hypotheses that are followed at once.
        max_len_a, max_len_b: a translation has at most ``max_len_a * length + max_len_b`` pieces.
        length_penalty: hypotheses compete by log-probability / length ** length_penalty.

    Raises:
        ValueError: a value outside the allowed ones.
    """

    beam: int = 5
    max_len_a: float = 0.0
    max_len_b: int = 200
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ValueError(f"--beam is {self.beam}; allowed: 1 or more")
        if not (math.isfinite(self.max_len_a) and self.max_len_a >= 0 and self.max_len_b >= 1):
            raise ValueError(
                f"--max-len-a is {self.max_len_a} and --max-len-b is {self.max_len_b}; "
                "allowed: 0 or more, and 1 or more"
            )
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"--lenpen is {self.length_penalty}; allowed: a finite number")

    def longest(self, source_pieces: int) -> int:
        """Pieces that a translation of so many pieces may have; fairseq counts the source's end of the sentence too."""
        return int(self.max_len_a * (source_pieces + 1) + self.max_len_b)

    def longest_source(self, limit: int) -> int:
        """The longest sentence, up to ``limit``, whose translation may be as long: a longer one would be cut off."""
        while (longest := self.longest(limit)) < limit:
            limit = longest
        return limit


@dataclass(frozen=True)
class Machine:
    """What a network runs on, and how much of it at once.

    Args:
        batch_size: sentences that are translated at once.
        threads: CPU threads (of each worker); None leaves it to the engine.
        workers: batches that are translated side by side.
        device: "cpu", "cuda", or "auto": CUDA where there is one.

    Raises:
        ValueError: a value outside the allowed ones.
    """

    batch_size: int = 32
    threads: int | None = None
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        options = {"--batch-size": self.batch_size, "--threads": self.threads, "--workers": self.workers}
        for name, value in options.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")
        if self.device not in DEVICES:
            raise ValueError(f"--device is {self.device}; allowed: {', '.join(DEVICES)}")


@dataclass(frozen=True)
class Hypothesis:
    """The best of a beam: tokens without end-of-sentence, and log-probability / length ** length penalty."""

    tokens: tuple[str, ...]
    score: float


class Engine(ABC):
    """A network that is ready to translate.

    Args:
        search: how it searches.
        max_positions: the longest sentences that the network takes and gives, with the end of the sentence.

    Raises:
        ValueError: the network has no room for a piece.
    """

    def __init__(self, search: Search, max_positions: tuple[int, int]) -> None:
        if min(max_positions) < 2:
            takes, gives = max_positions
            raise ValueError(
                f"the network takes {takes} and gives {gives} tokens, with the end of the sentence; allowed: 2 or more"
            )
        self.search = search
        self._max_target_pieces = max_positions[1] - 1
        #: A longer sentence does not fit into the network, or its translation may not be as long.
        self.max_source_pieces = search.longest_source(min(max_positions) - 1)

    def longest(self, source_pieces: int) -> int:
        """Pieces that a translation of so many pieces may have: as the search says, and the network can give."""
        return min(self.search.longest(source_pieces), self._max_target_pieces)

    @abstractmethod
    def best(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        """The best hypothesis for each sentence, in order; no sentence is empty, or has over ``max_source_pieces``."""

    def translate(self, sentences: Sequence[Pieces]) -> list[Pieces]:
        """The pieces of :meth:`best`, without ``<s>``: fairseq prints none (fairseq/data/dictionary.py:109)."""
        return [[token for token in hypothesis.tokens if token != START] for hypothesis in self.best(sentences)]

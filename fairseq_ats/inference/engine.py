"""Define the interface of every engine: translate sentences that are cut into pieces."""

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
    """The options of the beam search, with the same meaning and defaults as in ``fairseq-interactive``.

    Args:
        beam: the number of hypotheses that the search keeps at each step.
        max_len_a, max_len_b: a translation has at most ``max_len_a * length + max_len_b`` pieces.
        length_penalty: the score of a hypothesis is log-probability / length ** length_penalty.

    Raises:
        ValueError: an option has a value outside its allowed values.
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
                f"--max-len-a is {self.max_len_a} (allowed: 0 or more) and --max-len-b is {self.max_len_b} "
                "(allowed: 1 or more)"
            )
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"--lenpen is {self.length_penalty}; allowed: a finite number")

    def longest(self, source_pieces: int) -> int:
        """Return the largest number of pieces in a translation of ``source_pieces`` pieces.

        Count the end-of-sentence of the source as one more piece, as fairseq does.
        """
        return int(self.max_len_a * (source_pieces + 1) + self.max_len_b)

    def longest_source(self, limit: int) -> int:
        """Return the largest number of source pieces, up to ``limit``, whose translation may have as many pieces.

        The search could cut off the translation of a longer sentence.
        """
        while (longest := self.longest(limit)) < limit:
            limit = longest
        return limit


@dataclass(frozen=True)
class Machine:
    """The device that a network runs on, and how much work runs there at once.

    Args:
        batch_size: the number of sentences in a batch.
        threads: the number of CPU threads of each worker; None leaves the choice to the engine.
        workers: the number of batches that are translated in parallel.
        device: "cpu", "cuda", or "auto"; "auto" means CUDA if the machine has it, and the CPU otherwise.

    Raises:
        ValueError: an option has a value outside its allowed values.
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
    """The best hypothesis of a beam: tokens without end-of-sentence, and log-probability / length ** length penalty."""

    tokens: tuple[str, ...]
    score: float


class Engine(ABC):
    """A network that is ready to translate.

    Args:
        search: the options of the beam search.
        max_positions: the longest source and the longest target of the network in tokens, including end-of-sentence.

    Raises:
        ValueError: a limit in ``max_positions`` leaves no room for a piece beside the end-of-sentence.
    """

    def __init__(self, search: Search, max_positions: tuple[int, int]) -> None:
        if min(max_positions) < 2:
            takes, gives = max_positions
            raise ValueError(
                f"the network takes {takes} and gives {gives} tokens, including the end of the sentence; "
                "allowed: 2 or more"
            )
        self.search = search
        self._max_target_pieces = max_positions[1] - 1
        #: The most pieces of a sentence that fits into the network and whose translation may have as many pieces.
        self.max_source_pieces = search.longest_source(min(max_positions) - 1)

    def longest(self, source_pieces: int) -> int:
        """Return the largest number of pieces in a translation of ``source_pieces`` pieces.

        Take the smaller of the search's limit and the network's limit.
        """
        return min(self.search.longest(source_pieces), self._max_target_pieces)

    @abstractmethod
    def best(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        """Return the best hypothesis for each sentence, in the order of the sentences.

        Args:
            sentences: the pieces of each sentence, from 1 to ``max_source_pieces`` pieces.
        """

    def translate(self, sentences: Sequence[Pieces]) -> list[Pieces]:
        """Return the pieces of each hypothesis of :meth:`best`, in order.

        Drop the token ``<s>``, because fairseq does not print it (fairseq/data/dictionary.py:109).
        """
        return [[token for token in hypothesis.tokens if token != START] for hypothesis in self.best(sentences)]


class BatchedEngine(Engine):
    """An engine that decodes one batch at a time, of sentences of like length.

    Args:
        search, max_positions: see :class:`Engine`.
        batch_size: the number of sentences in a batch.
    """

    def __init__(self, search: Search, max_positions: tuple[int, int], batch_size: int) -> None:
        super().__init__(search, max_positions)
        self._batch_size = batch_size

    def best(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        found: dict[int, Hypothesis] = {}
        by_length = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        for start in range(0, len(by_length), self._batch_size):
            indices = by_length[start : start + self._batch_size]
            found |= zip(indices, self._best_of_batch([sentences[i] for i in indices]), strict=True)
        return [found[index] for index in range(len(sentences))]

    @abstractmethod
    def _best_of_batch(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        """Decode the sentences as one batch; the result has the order of the sentences."""

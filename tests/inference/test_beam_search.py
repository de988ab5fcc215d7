"""The beam search of the runtime: its hypotheses are those of plain lines that search in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from fairseq_ats.inference.beam_search import END, PAD, beam_search
from fairseq_ats.inference.engine import Search

VOCABULARY = 9


def log_probabilities(sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
    """What a network might say after a prefix; it likes to end at once, which is not allowed, or after a few tokens."""
    logits = np.random.default_rng([sentence, *prefix]).normal(size=VOCABULARY)
    logits[END] += len(prefix) - 2.5 if prefix else 2.0
    return logits - np.log(np.exp(logits).sum())


def expected(sentence: int, search: Search, longest: int) -> tuple[list[int], float]:
    """As fairseq's sequence_generator.py says, without arrays."""
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for step in range(longest + 1):
        continued = []
        for score, prefix in beam:
            values = log_probabilities(sentence, prefix)
            for token in range(VOCABULARY):
                forbidden = token == PAD or (token == END and step == 0) or (token != END and step == longest)
                if not forbidden:
                    continued.append((score + values[token], (*prefix, token)))
        continued = sorted(continued, reverse=True)[: 2 * search.beam]
        for score, prefix in continued[: search.beam]:
            if prefix[-1] == END and len(ended) < search.beam:
                ended.append((score / (step + 1) ** search.length_penalty, prefix[:-1]))
        if len(ended) == search.beam:
            break
        beam = [(score, prefix) for score, prefix in continued if prefix[-1] != END][: search.beam]
    score, prefix = max(ended)
    return list(prefix), score


@dataclass
class Tables:
    """A network that reads a hypothesis through ``others`` alone, as a decoder reads its caches."""

    sentences: list[int]
    read: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def step(self, tokens: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.read.append(tokens)
        self.sizes.append(len(tokens))
        cached = np.concatenate(self.read, axis=1)
        assert others.shape == (*tokens.shape, cached.shape[1])
        count = min(count, VOCABULARY)
        values, numbers = (np.zeros((*tokens.shape, count), kind) for kind in (np.float32, int))
        end = np.zeros(tokens.shape, np.float32)
        for row, hypothesis in np.ndindex(*tokens.shape):
            seen = cached[row][others[row, hypothesis] == 0]
            assert seen[0] == END
            assert len(seen) == len(self.read), "one ancestor in each step"
            found = log_probabilities(self.sentences[row], tuple(seen[1:].tolist()))
            best = np.argsort(-found)[:count]
            values[row, hypothesis], numbers[row, hypothesis], end[row, hypothesis] = found[best], best, found[END]
        return values, numbers, end

    def keep(self, sentences: np.ndarray) -> None:
        self.sentences = [self.sentences[row] for row in sentences]
        self.read = [tokens[sentences] for tokens in self.read]


@pytest.mark.parametrize("search", [Search(1), Search(2), Search(3, length_penalty=0.0), Search(4, length_penalty=2.0)])
@pytest.mark.parametrize("longest", [1, 3, 20])
def test_the_hypotheses_of_plain_lines(search: Search, longest: int) -> None:
    sentences = list(range(12))
    network = Tables(sentences)
    found = beam_search(network, len(sentences), search, longest)
    for sentence, (tokens, score) in zip(sentences, found, strict=True):
        assert tokens == (wanted := expected(sentence, search, longest))[0]
        assert math.isclose(score, wanted[1], abs_tol=1e-5)
    assert len({tuple(tokens) for tokens, _ in found}) > 3, "too few different hypotheses to compare"
    assert longest < 20 or network.sizes[-1] < 12, "finished sentences are left out"

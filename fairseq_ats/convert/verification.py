"""Verify that a converted network computes what its source computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks.translation import TranslationTask
from torch import Tensor

from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.data.text import Pieces, Text, parts
from fairseq_ats.inference.engine import Hypothesis, Machine, Search
from fairseq_ats.inference.fairseq_engine import FairseqEngine

# The largest difference of two scores that counts as a tie: rounding then decides which hypothesis ranks first.
TIE = 1e-3

_RANDOM_PAIRS = 8
_LONGEST_RANDOM = 24
_SEED = 1


class VerificationError(RuntimeError):
    """The converted network does not compute what its source computes."""


def engine_of(model: FairseqEncoderDecoderModel, task: TranslationTask, beam: int) -> FairseqEngine:
    """Return the engine that ``fairseq-ats-translate`` uses for a fairseq model, on a CPU.

    All options but the beam width have their defaults.
    """
    return FairseqEngine(model, task, Search(beam=beam), Machine.batch_size, "cpu")


def read_sentences(path: Path, text: Text, longest: int) -> list[Pieces]:
    """Read the sentences of a text file and cut them into pieces.

    Skip blank lines. Cut a long line into parts, as for translation.

    Args:
        text: cuts a line into pieces as the training data was cut.
        longest: the largest number of pieces that the network translates at once.

    Raises:
        ValueError: the file cannot be read, or holds no sentence.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--verify-on is {path}, which cannot be read: {error}") from error
    sentences = [part for line in lines for part in parts(text.encode(line), longest)]
    if not sentences:
        raise ValueError(f"--verify-on is {path}, which holds no sentence")
    return sentences


def numbered(tokens: Sequence[str], dictionary: Dictionary) -> Tensor:
    """Return the dictionary's numbers of the tokens and of end-of-sentence, (length + 1,)."""
    return torch.tensor([dictionary.index(token) for token in tokens] + [dictionary.eos()])


def as_batch(sentences: Sequence[Sequence[str]], dictionary: Dictionary) -> tuple[Tensor, Tensor]:
    """Return the source tokens (batch, time), padded on the left as in fairseq, and their lengths (batch,)."""
    rows = [numbered(tokens, dictionary) for tokens in sentences]
    batch = collate_tokens(rows, dictionary.pad(), left_pad=True)
    return batch, torch.tensor([len(row) for row in rows])


def random_pairs(source: SourceNetwork) -> list[tuple[list[str], list[str]]]:
    """Return pairs of random source and target tokens, of random lengths.

    The draw covers both dictionaries except their special symbols. The seed is fixed.
    """
    generator = torch.Generator().manual_seed(_SEED)
    dictionaries = (source.task.source_dictionary, source.task.target_dictionary)

    def draw(dictionary: Dictionary, positions: int) -> list[str]:
        length = int(torch.randint(1, min(_LONGEST_RANDOM, positions), (), generator=generator))
        numbers = torch.randint(dictionary.nspecial, len(dictionary), (length,), generator=generator)
        return [dictionary[n] for n in numbers.tolist()]

    one, other = zip(dictionaries, source.model.max_positions(), strict=True)
    return [(draw(*one), draw(*other)) for _ in range(_RANDOM_PAIRS)]


@torch.no_grad()
def log_probabilities(
    model: FairseqEncoderDecoderModel, task: TranslationTask, pairs: Sequence[tuple[list[str], list[str]]]
) -> list[Tensor]:
    """Return, for each pair, the log-probabilities of the whole vocabulary at each position of the target.

    The positions include end-of-sentence. Each tensor has the shape (length + 1, vocabulary) and is in nats.
    """
    source, lengths = as_batch([source for source, _ in pairs], task.source_dictionary)
    targets = task.target_dictionary
    rows = [numbered(tokens, targets) for _, tokens in pairs]
    previous = collate_tokens(rows, targets.pad(), move_eos_to_beginning=True)
    output = model(source, lengths, previous)
    every = model.get_normalized_probs(output, log_probs=True)
    return [every[i, : len(row)] for i, row in enumerate(rows)]


def check_same_network(
    source: SourceNetwork,
    converted: FairseqEncoderDecoderModel,
    task: TranslationTask,
    sentences: Sequence[Sequence[str]],
    beam: int,
    tolerance: float,
) -> Iterator[str]:
    """Compare the log-probabilities of the whole vocabulary on random pairs, and the best hypotheses on ``sentences``.

    Args:
        task: the converted model's task.
        tolerance: the largest allowed difference of log-probabilities, in nats.

    Yields:
        One line on the result of each comparison.

    Raises:
        VerificationError: the networks differ by more than rounding.
    """
    pairs = random_pairs(source)
    expected = torch.cat(log_probabilities(source.model, source.task, pairs))
    yield check_difference("logits", expected, torch.cat(log_probabilities(converted, task, pairs)), tolerance)
    if sentences:
        own = engine_of(source.model, source.task, beam)
        found = engine_of(converted, task, beam).best(sentences)
        yield check_same_beams(own.best(sentences), found, own.longest(own.max_source_pieces))


def check_difference(what: str, expected: Tensor, found: Tensor, tolerance: float, on_average: bool = False) -> str:
    """Compare two tensors of log-probabilities on random pairs.

    Args:
        what: a name for the values, for the messages.
        tolerance: the largest allowed difference, in nats.
        on_average: compare the mean difference with the tolerance, and not the largest difference.

    Returns:
        One line on the result.

    Raises:
        VerificationError: the difference exceeds the tolerance or is NaN.
    """
    differences = (found.double() - expected.double()).abs()
    difference = float(differences.mean() if on_average else differences.max())
    size = f"{difference:.2g} nats{' on average' if on_average else ''}"
    if not difference <= tolerance:  # also refuses NaN
        raise VerificationError(f"{what} differ from the source's by {size} on random input; allowed: {tolerance:g}")
    by = "by" if on_average else "by at most"
    return f"{what}: differ {by} {size} on {_RANDOM_PAIRS} random pairs (allowed: {tolerance:g})"


def check_same_beams(
    expected: Sequence[Hypothesis], found: Sequence[Hypothesis], longest: int, exact: bool = True
) -> str:
    """Compare the best hypothesis of every sentence.

    Two kinds of difference are allowed, because the network does not cause them: a tie, and a hypothesis without an
    end. At the longest length fairseq appends end-of-sentence and scores it. CTranslate2 ranks the hypotheses without
    it.

    Args:
        longest: the largest number of tokens in a hypothesis.
        exact: False only counts the differences, for weights that were rounded on purpose.

    Returns:
        One line on the result.

    Raises:
        VerificationError: ``exact`` is True, and a difference is neither a tie nor a hypothesis without an end.
    """
    different = [(a, b) for a, b in zip(expected, found, strict=True) if a.tokens != b.tokens]
    cut_off = [(a, b) for a, b in different if len(b.tokens) >= longest]
    # A hypothesis that ends has the same score in both engines. A hypothesis that ranks before it cannot score lower.
    endless = [(a, b) for a, b in cut_off if len(a.tokens) >= longest or b.score >= a.score - TIE]
    ties = [(a, b) for a, b in different if abs(a.score - b.score) <= TIE and (a, b) not in endless]
    report = f"best hypotheses of the beams: {len(expected) - len(different)} of {len(expected)} sentences identical"
    if ties:
        report += f", {len(ties)} with another hypothesis of the same score (within {TIE:g})"
    if endless:
        report += f", {len(endless)} without an end after {longest} tokens"
    if exact and len(different) > len(ties) + len(endless):
        raise VerificationError(f"{report}; the others differ")
    return report

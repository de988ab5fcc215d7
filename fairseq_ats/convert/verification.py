"""Does a converted network compute what its source computes?"""

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

# Two hypotheses whose scores differ by less are a tie that rounding decides.
TIE = 1e-3

_RANDOM_PAIRS = 8
_LONGEST_RANDOM = 24
_SEED = 1


class VerificationError(RuntimeError):
    """The converted network computes something else than its source."""


def engine_of(model: FairseqEncoderDecoderModel, task: TranslationTask, beam: int) -> FairseqEngine:
    """A fairseq model as ``fairseq-ats-translate`` uses it; what is left open is at its default."""
    return FairseqEngine(model, task, Search(beam=beam), Machine.batch_size, "cpu")


def read_sentences(path: Path, text: Text, longest: int) -> list[Pieces]:
    """Pieces of the sentences of a text file; blank lines are left out, and long ones cut as for translation.

    Args:
        text: cuts a line as the training data was cut.
        longest: the most pieces that the network translates at once.

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
    """Numbers of the tokens and of end-of-sentence, (length + 1,)."""
    return torch.tensor([dictionary.index(token) for token in tokens] + [dictionary.eos()])


def as_batch(sentences: Sequence[Sequence[str]], dictionary: Dictionary) -> tuple[Tensor, Tensor]:
    """Sources (batch, time), padded on the left as fairseq pads them, and their lengths."""
    rows = [numbered(tokens, dictionary) for tokens in sentences]
    batch = collate_tokens(rows, dictionary.pad(), left_pad=True)
    return batch, torch.tensor([len(row) for row in rows])


def random_pairs(source: SourceNetwork) -> list[tuple[list[str], list[str]]]:
    """Source and target tokens at random, of different lengths, from everything that the dictionaries hold."""
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
    """For each pair, of each target token and end-of-sentence: (length + 1, vocabulary), in nats."""
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
    """Log-probabilities of the whole vocabulary on random sentence pairs, and beams on ``sentences``.

    Args:
        task: of the converted model.
        tolerance: largest allowed difference of log-probabilities, in nats.

    Yields:
        A line on what was found.

    Raises:
        VerificationError: more than rounding differs.
    """
    pairs = random_pairs(source)
    expected = torch.cat(log_probabilities(source.model, source.task, pairs))
    yield check_difference("logits", expected, torch.cat(log_probabilities(converted, task, pairs)), tolerance)
    if sentences:
        own = engine_of(source.model, source.task, beam)
        found = engine_of(converted, task, beam).best(sentences)
        yield check_same_beams(own.best(sentences), found, own.longest(own.max_source_pieces))


def check_difference(what: str, expected: Tensor, found: Tensor, tolerance: float, on_average: bool = False) -> str:
    """Two tensors of log-probabilities on random pairs.

    Args:
        on_average: hold the mean difference against the tolerance and not the largest.

    Returns:
        One line on what was found.

    Raises:
        VerificationError: they differ by more, or are no numbers.
    """
    differences = (found.double() - expected.double()).abs()
    difference = float(differences.mean() if on_average else differences.max())
    size = f"{difference:.2g} nats{' on average' if on_average else ''}"
    if not difference <= tolerance:  # NaN, too
        raise VerificationError(f"{what} differ from the source's by {size} on random input; allowed: {tolerance:g}")
    by = "by" if on_average else "by at most"
    return f"{what}: differ {by} {size} on {_RANDOM_PAIRS} random pairs (allowed: {tolerance:g})"


def check_same_beams(
    expected: Sequence[Hypothesis], found: Sequence[Hypothesis], longest: int, exact: bool = True
) -> str:
    """The best hypothesis of every sentence.

    Two differences are none of the network: a tie, and a hypothesis that never ends. At the longest length fairseq
    scores the end-of-sentence that it puts there, and CTranslate2 ranks the hypotheses without it.

    Args:
        longest: tokens that a hypothesis may have.
        exact: False counts only, for weights that were rounded on purpose.

    Returns:
        One line on what was found.

    Raises:
        VerificationError: a hypothesis differs otherwise.
    """
    different = [(a, b) for a, b in zip(expected, found, strict=True) if a.tokens != b.tokens]
    cut_off = [(a, b) for a, b in different if len(b.tokens) >= longest]
    # A hypothesis that does end has one score: what ranks before it has none that is lower.
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

"""Search for the best hypotheses with arrays of numpy, as fairseq's beam search does, for a network without fairseq."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fairseq_ats.inference.engine import Search

# The numbers of fairseq's special symbols (fairseq/data/dictionary.py).
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD, END, UNKNOWN = 1, 2, 3

Array = np.ndarray


class Batch(Protocol):
    """The network of a search, with what it has read of a batch of sentences so far."""

    def step(self, tokens: Array, others: Array, count: int) -> tuple[Array, Array, Array]:
        """Read the last token of every hypothesis.

        Args:
            tokens: (sentences, hypotheses).
            others: added to the scores of the self-attention, (sentences, hypotheses, all hypotheses of all steps so
                far, with this one): 0 at a hypothesis itself and at those that it descends from, -inf at the others.
            count: how many next tokens to return for each hypothesis.

        Returns:
            The log-probabilities and the numbers of the likeliest next tokens, each (sentences, hypotheses, count), and
            the log-probability of the end, (sentences, hypotheses).
        """

    def keep(self, sentences: Array) -> None:
        """Forget all sentences but those with these numbers in the batch."""


def beam_search(network: Batch, sentences: int, search: Search, longest: int) -> list[tuple[list[int], float]]:
    """Return the tokens of the best hypothesis of each sentence, without its end, and its score.

    The hypotheses are those of fairseq/sequence_generator.py, up to the rounding of equal scores: a sentence is
    finished when ``beam`` hypotheses have ended, or at the longest length, where every hypothesis ends. A hypothesis
    ends if its end is among the ``beam`` likeliest continuations, and does not begin with its end.

    Args:
        sentences: the number of sentences in the batch.
        longest: the largest number of tokens in a hypothesis, without its end.
    """
    beam = search.beam
    ended: list[list[tuple[list[int], float]]] = [[] for _ in range(sentences)]
    active = np.arange(sentences)
    tokens = np.full((sentences, 1), END)
    scores = np.zeros((sentences, 1), np.float32)
    prefixes = np.empty((sentences, 1, 0), tokens.dtype)
    others = np.zeros((sentences, 1, 1), np.float32)
    none_of_the_rest = np.where(np.eye(beam, dtype=bool), 0, -np.inf).astype(np.float32)

    for step in range(longest + 1):
        values, pieces, end = network.step(tokens, others, 2 * beam + 2)  # + 2: without pad and end
        if step == longest:
            values, pieces = end[:, :, None], np.full((*end.shape, 1), END)
        values[(pieces == PAD) | ((pieces == END) & (step == 0))] = -np.inf
        totals = (values + scores[:, :, None]).reshape(len(active), -1)
        order = np.argsort(-totals, axis=1, kind="stable")[:, : 2 * beam]
        parents = order // values.shape[2]
        totals = np.take_along_axis(totals, order, 1)
        pieces = np.take_along_axis(pieces.reshape(len(active), -1), order, 1)

        ends = (pieces == END) & (totals > -np.inf)
        for row, rank in zip(*np.nonzero(ends[:, :beam]), strict=True):
            if len(ended[active[row]]) < beam:
                prefix = prefixes[row, parents[row, rank]].tolist()
                ended[active[row]].append((prefix, float(totals[row, rank]) / (step + 1) ** search.length_penalty))
        if step == longest:
            break
        unfinished = np.array([row for row, number in enumerate(active) if len(ended[number]) < beam], int)
        if len(unfinished) == 0:
            break
        # At most one continuation of each of the ``beam`` hypotheses is an end, so at least ``beam`` others are left.
        going_on = np.argsort(ends, axis=1, kind="stable")[:, :beam]
        parents, tokens, scores = (np.take_along_axis(a, going_on, 1) for a in (parents, pieces, totals))
        if len(unfinished) < len(active):
            network.keep(unfinished)
            active = active[unfinished]
            parents, tokens, scores, prefixes, others = (
                a[unfinished] for a in (parents, tokens, scores, prefixes, others)
            )
        prefixes = np.concatenate([_descend(prefixes, parents), tokens[:, :, None]], axis=2)
        own = np.broadcast_to(none_of_the_rest, (len(active), beam, beam))
        others = np.concatenate([_descend(others, parents), own], axis=2)
    return [max(hypotheses, key=lambda hypothesis: hypothesis[1]) for hypotheses in ended]


def _descend(rows: Array, parents: Array) -> Array:
    """Return the row of each hypothesis's parent, (sentences, hypotheses, ...)."""
    return np.take_along_axis(rows, parents[:, :, None], 1)

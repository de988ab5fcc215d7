"""Translate with a folder in the format ``huggingface``: ``transformers`` and torch, without fairseq."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fairseq_ats.inference.engine import BatchedEngine, Hypothesis, Machine, Search
from fairseq_ats.inference.torch_machine import use_torch_on

VOCABULARY_FILE = "vocab.json"
PIECES_FILE = "sentencepiece.bpe.model"
CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"

# Names of the files that ``transformers`` writes, and of those that it wants beside them.
HUGGINGFACE_FILES = (
    VOCABULARY_FILE,
    PIECES_FILE,
    CARD_FILE,
    "generation_config.json",
    WEIGHTS_FILE,
    "tokenizer_config.json",
)

PAD, END, UNKNOWN = 1, 2, 3  # the numbers of fairseq's special symbols


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep ``transformers`` from drawing progress bars while the context lasts."""
    from transformers.utils import logging

    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


class HuggingFaceEngine(BatchedEngine):
    """A converted network that ``transformers`` runs.

    Args:
        path: the folder.
        max_positions: see :class:`~fairseq_ats.inference.engine.Engine`.
        search: the beam search.
        machine: the device, the threads and the batch size.

    Raises:
        ValueError: the package ``transformers`` is not installed, it cannot read the folder, or the machine's options
            do not suit it.
    """

    def __init__(self, path: Path, max_positions: tuple[int, int], search: Search, machine: Machine) -> None:
        try:
            from transformers import AutoModelForSeq2SeqLM
        except ImportError as error:
            raise ValueError(f"{path} needs the package transformers (pip install transformers): {error}") from error
        self._device = use_torch_on(machine)
        try:
            with no_progress_bars():
                model = AutoModelForSeq2SeqLM.from_pretrained(str(path), local_files_only=True, use_safetensors=True)
            self.model = model.to(self._device).eval()
            self._numbers: dict[str, int] = json.loads((path / VOCABULARY_FILE).read_text("utf-8"))
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read by transformers: {error}") from error
        self._pieces = {number: piece for piece, number in self._numbers.items()}
        super().__init__(search, max_positions, machine.batch_size)

    def batch(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Return the numbers of the pieces and of end-of-sentence, (batch, time), padded on the right."""
        rows = [[self._numbers.get(piece, UNKNOWN) for piece in pieces] + [END] for pieces in sentences]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows], device=self._device)

    def _best_of_batch(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        source = self.batch(sentences)
        greedy = self.search.beam == 1
        output = self.model.generate(
            input_ids=source,
            attention_mask=source.ne(PAD),
            num_beams=self.search.beam,
            length_penalty=self.search.length_penalty,
            max_new_tokens=self.longest(max(map(len, sentences))) + 1,  # the last is a forced end-of-sentence
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=greedy,
        )
        tokens = output.sequences[:, 1:]  # the first is end-of-sentence, as in fairseq
        scores = self._scores_of_greedy(tokens, output.logits) if greedy else output.sequences_scores
        hypotheses = []
        for row, score in zip(tokens.tolist(), scores.tolist(), strict=True):
            pieces = [self._pieces[number] for number in row if number not in (PAD, END)]
            hypotheses.append(Hypothesis(tuple(pieces), score))
        return hypotheses

    def _scores_of_greedy(self, tokens: Tensor, logits: Sequence[Tensor]) -> Tensor:
        """Return the scores (batch,) of tokens (batch, time), which ``transformers`` gives for more than one beam only.

        Args:
            logits: of each step, (batch, vocabulary).
        """
        steps = [
            of_all.log_softmax(-1).gather(1, chosen[:, None]) for of_all, chosen in zip(logits, tokens.T, strict=True)
        ]
        made = tokens.ne(PAD)
        return (made * torch.cat(steps, 1)).sum(1) / made.sum(1) ** self.search.length_penalty

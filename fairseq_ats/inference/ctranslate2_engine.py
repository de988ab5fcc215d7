"""Translate with a folder in the format ``ctranslate2``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_ats.inference.engine import Engine, Hypothesis, Machine, Search

SHORTLIST_FILE = "vmap.txt"  # CTranslate2's name

logger = logging.getLogger(__name__)


class CTranslate2Engine(Engine):
    """A converted network that CTranslate2 runs.

    Args:
        path: the folder.
        max_positions: see :class:`~fairseq_ats.inference.engine.Engine`.
        search: the beam search.
        machine: the device, the threads, the workers and the batch size.
        shortlist: use the shortlist, if the folder has one.

    Raises:
        ValueError: the package ``ctranslate2`` is not installed, or it cannot read the folder; or the machine asks for
            CUDA, and CTranslate2 cannot use it.
    """

    def __init__(
        self,
        path: Path,
        max_positions: tuple[int, int],
        search: Search,
        machine: Machine,
        shortlist: bool = False,
    ) -> None:
        try:
            import ctranslate2
        except ImportError as error:
            raise ValueError(
                f"{path} needs the package ctranslate2 (pip install ctranslate2), one of fairseq-ats[runtime]: {error}"
            ) from error

        def translator_on(device: str) -> ctranslate2.Translator:
            try:
                return ctranslate2.Translator(
                    str(path),
                    device=device,
                    inter_threads=machine.workers,
                    intra_threads=machine.threads or 0,  # 0: CTranslate2's own choice
                )
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{path} cannot be read by ctranslate2 {ctranslate2.__version__}: {error}") from error

        self.translator = translator_on(machine.device)
        problem = _problem_of_card(self.translator)
        if problem is not None:
            if machine.device == "cuda":
                raise ValueError(f"--device is cuda, and ctranslate2 cannot use it: {problem}; allowed here: cpu, auto")
            logger.warning(f"takes the CPU, since ctranslate2 cannot use the card: {problem}")
            self.translator = translator_on("cpu")
        self._batch_size = machine.batch_size
        self._shortlist = shortlist and (path / SHORTLIST_FILE).is_file()
        super().__init__(search, max_positions)

    def best(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        if not sentences:
            return []
        results = self.translator.translate_batch(
            list(sentences),
            max_batch_size=self._batch_size,
            beam_size=self.search.beam,
            length_penalty=self.search.length_penalty,
            max_input_length=0,  # no limit: all sentences fit the network; the default cuts at 1024 silently
            max_decoding_length=self.longest(max(len(pieces) for pieces in sentences)),
            return_scores=True,
            use_vmap=self._shortlist,
        )
        return [Hypothesis(tuple(result.hypotheses[0]), result.scores[0]) for result in results]


def _problem_of_card(translator: Any) -> str | None:
    """Return why a translator cannot use the card that it is on; None if it can, or if it is on the CPU.

    CTranslate2 loads cuBLAS, of the CUDA version that it was built for, in its first matrix product: it counts a card
    whose libraries are not there, or are of another version.
    """
    if translator.device != "cuda":
        return None
    try:
        translator.translate_batch([["</s>"]], beam_size=1, max_decoding_length=1)
    except RuntimeError as error:
        return str(error)
    return None

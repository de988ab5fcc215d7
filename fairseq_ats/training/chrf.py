"""Score chrF beside BLEU in the validations of ``--eval-bleu``, on the same translations.

fairseq's validation returns BLEU's counts and no text (fairseq/tasks/translation.py:464). It translates by the task's
``inference_step``, which keeps here what it returned. Like BLEU's, chrF's counts are sums over sentences, so that they
add up over batches and workers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fairseq import utils
from fairseq.logging import metrics
from fairseq.tasks.translation import TranslationTask
from sacrebleu import CHRF
from torch import Tensor

COUNTS = "_chrf_counts"
_KEY = "_chrf_count_"


class WithChrf(TranslationTask):
    """fairseq's translation task; its validations with ``--eval-bleu`` log ``chrf``, from 0 to 100.

    The score is sacreBLEU's chrF2 (Popović, 2015) of the validation set, as ``sacrebleu.corpus_chrf`` gives it.
    """

    _translated: Any = None

    def inference_step(self, *arguments: Any, **options: Any) -> Any:
        self._translated = super().inference_step(*arguments, **options)
        return self._translated

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> tuple[Any, Any, dict[str, Any]]:
        loss, sample_size, logging_output = super().valid_step(sample, model, criterion)
        if self.cfg.eval_bleu:
            translated, self._translated = self._translated, None
            # As fairseq cuts the texts for BLEU; a reference has other words for what the dictionary lacks.
            found = [self._text(hypotheses[0]["tokens"], "UNKNOWNTOKENINHYP") for hypotheses in translated]
            targets = [utils.strip_pad(target, self.tgt_dict.pad()) for target in sample["target"]]
            wanted = [self._text(target, "UNKNOWNTOKENINREF") for target in targets]
            for place, count in enumerate(chrf_counts(found, wanted)):
                logging_output[f"{_KEY}{place}"] = count
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        keys = [f"{_KEY}{place}" for place in range(3 * CHRF.CHAR_ORDER)]
        counts = np.array([float(sum(output.get(key, 0) for output in logging_outputs)) for key in keys])
        if counts.any():
            metrics.log_scalar(COUNTS, counts)  # a sum, and hidden from logs, as fairseq's of BLEU
            metrics.log_derived("chrf", lambda meters: round(chrf_of(meters[COUNTS].sum), 2))

    def _text(self, tokens: Tensor, unknown: str) -> str:
        text = self.tgt_dict.string(tokens.int().cpu(), self.cfg.eval_bleu_remove_bpe, unk_string=unknown)
        return self.tokenizer.decode(text) if self.tokenizer else text


def chrf_counts(found: list[str], wanted: list[str]) -> list[int]:
    """Return, for each order n from 1 to 6, how many n-grams of characters translations, references and both have."""
    return [sum(counts) for counts in zip(*CHRF()._extract_corpus_statistics(found, [wanted]), strict=True)]


def chrf_of(counts: Any) -> float:
    """Return the score of the counts of :func:`chrf_counts`."""
    return CHRF()._compute_score_from_stats([int(count) for count in counts]).score

"""chrF in validation: sacreBLEU's score of the same translations, over batches and for each network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sacrebleu
import torch
from fairseq.logging import metrics
from fairseq.tasks.translation import TranslationTask

from fairseq_ats.training.chrf import chrf_counts, chrf_of
from tests.support.command_line import BLEU


def test_counts_add_up_to_the_score_of_the_whole() -> None:
    found, wanted = ["ein Haus", "", "zwei  rote Hunde", "abc"], ["ein Haus", "das", "zwei rote Hunde", "xyz"]
    whole = chrf_counts(found, wanted)
    halves = zip(chrf_counts(found[:2], wanted[:2]), chrf_counts(found[2:], wanted[2:]), strict=True)
    assert whole == [sum(pair) for pair in halves]
    assert chrf_of(whole) == sacrebleu.corpus_chrf(found, [wanted]).score


def test_each_network_has_its_own(
    build: Callable[..., SimpleNamespace], batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches; the texts are those that fairseq gives to sacreBLEU for BLEU."""
    built = build(*BLEU, "--small-ratio", "0.25", "--partitioned-linear-module-name", "PartitionedLinear")
    texts: list[tuple[list[str], list[str]]] = []
    stock = sacrebleu.corpus_bleu
    monkeypatch.setattr(sacrebleu, "corpus_bleu", lambda h, r: texts.append((h, r[0])) or stock(h, r))
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model, half = built.model.eval(), len(batch["id"]) // 2
    outputs = [built.task.valid_step(part, model, built.criterion)[2] for part in parts_of(batch, half)]
    with metrics.aggregate(new_root=True) as logged:
        built.task.reduce_metrics(outputs, built.criterion)
    values = logged.get_smoothed_values()
    for name, of_network in (("core_chrf", texts[0::2]), ("chrf", texts[1::2])):
        found, wanted = ([text for pair in of_network for text in pair[side]] for side in (0, 1))
        assert len(found) == len(batch["id"])
        assert values[name] == round(sacrebleu.corpus_chrf(found, [wanted]).score, 2) > 0
    assert values["core_chrf"] != values["chrf"]
    assert not [name for name in values if name.startswith("_chrf_count_")]


def test_no_chrf_without_bleu(build: Callable[..., SimpleNamespace], batch: Any) -> None:
    built = build()
    _, _, output = built.task.valid_step(batch, built.model.eval(), built.criterion)
    assert not [key for key in output if "chrf" in key]
    assert issubclass(type(built.task), TranslationTask)


def parts_of(batch: Any, first: int) -> list[Any]:
    def cut(value: Any, part: slice) -> Any:
        if isinstance(value, dict):
            return {name: cut(of_name, part) for name, of_name in value.items()}
        return value[part] if isinstance(value, torch.Tensor) else value

    def counted(part: Any) -> Any:
        return part | {"nsentences": len(part["id"]), "ntokens": int(part["target"].ne(1).sum())}

    return [counted(cut(batch, part)) for part in (slice(None, first), slice(first, None))]

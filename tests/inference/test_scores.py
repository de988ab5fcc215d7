"""Scores: those of sacreBLEU and of COMET, for each test set of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sacrebleu

from fairseq_ats.inference.scores import Scorer, TestSet, read_test_sets

SET = TestSet("flickr", ["a dog", "two cats"], ["ein Hund rennt im Gras", "zwei Katzen schlafen auf dem Sofa"])
HYPOTHESES = ["ein hund rennt im Gras", "zwei Katzen liegen auf dem Sofa"]


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_are_those_of_sacrebleu(lowercase: bool) -> None:
    found = Scorer(lowercase).scores(SET, HYPOTHESES)
    texts = [[line.lower() if lowercase else line for line in lines] for lines in (HYPOTHESES, SET.references)]
    assert found["bleu"] == sacrebleu.corpus_bleu(texts[0], [texts[1]]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(texts[0], [texts[1]]).score
    assert f"case:{'lc' if lowercase else 'mixed'}" in found["signature"]
    assert found["chrf_signature"].startswith("nrefs:1")
    assert "comet" not in found


def test_comet_sees_source_hypothesis_and_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def predict(rows: list[dict[str, str]], **options: Any) -> SimpleNamespace:
        asked.extend(rows)
        return SimpleNamespace(system_score=0.25)

    package = ModuleType("comet")
    package.load_from_checkpoint = lambda path: SimpleNamespace(predict=predict)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comet", package)
    checkpoint = tmp_path / "model.ckpt"
    with pytest.raises(ValueError, match=r"--comet is .*model\.ckpt, which is not a file"):
        Scorer(comet=checkpoint)
    checkpoint.write_bytes(b"")
    found = Scorer(comet=checkpoint).scores(SET, HYPOTHESES)
    assert (found["comet"], found["comet_model"]) == (0.25, "model.ckpt")
    assert asked[1] == {"src": "two cats", "mt": HYPOTHESES[1], "ref": SET.references[1]}

    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(ValueError, match="--comet needs the package unbabel-comet"):
        Scorer(comet=checkpoint)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def test_every_set_of_a_folder_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, b_en="x\ny\n", b_de="X\nY\n", a_en="1\n", a_de="2\n", README_md="no set")
    assert read_test_sets(folder, "en", "de") == [TestSet("a", ["1"], ["2"]), TestSet("b", ["x", "y"], ["X", "Y"])]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"has no files NAME\.en and NAME\.de"),
        ({"a_en": "x\n"}, r"a has no a\.de"),
        ({"a_de": "x\n"}, r"a has no a\.en"),
        ({"test_en": "x\n", "test_de": "y\n"}, "a set named test"),
        ({"a_en": "x\ny\n", "a_de": "y\n"}, "has 2 lines and .* has 1"),
        ({"a_en": "x\n", "a_de": " \n"}, "is blank"),
    ],
)
def test_folders_that_are_no_test_sets(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_test_sets(write(tmp_path / "tests", **files), "en", "de")

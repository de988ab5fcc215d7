"""Evaluate in this process: languages of any name, and sentences of any length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sacrebleu
import torch
from fairseq.data import Dictionary

from fairseq_ats.data.lines import raw_references
from fairseq_ats.inference.evaluation import batches_of, evaluate, load, networks_of, search_of, text_of
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]
Run = Callable[..., Path]


@pytest.fixture
def run(build: Build, tmp_path: Path) -> Run:
    """``run("--max-source-positions", "9")`` → the folder of a run of the toy corpus with these options."""

    def run(*options: str) -> Path:
        (tmp_path / "run").mkdir()
        save_checkpoint(build("--small-ratio", "0.25", *options), tmp_path / "run/checkpoint_best.pt")
        return tmp_path / "run"

    return run


@pytest.mark.parametrize(("source", "target"), [("eng", "deu"), ("en-US", "pt_BR")])
def test_languages_of_any_name(run: Run, toy_data: Path, tmp_path: Path, source: str, target: str) -> None:
    """Three letters, and regions; with the files that ``fairseq-ats binarise`` names after them."""
    data, folder = tmp_path / "data", run()
    data.mkdir()
    names = {"en-de": f"{source}-{target}", "en": source, "de": target}
    for file in toy_data.iterdir():
        renamed = ".".join(names.get(part, part) for part in file.name.split("."))
        (data / renamed).write_bytes(file.read_bytes())
    stamp = json.loads((toy_data / "binarised.json").read_text())
    (data / "binarised.json").write_text(json.dumps(stamp | {"source": source, "target": target}))
    networks = evaluate(data, folder, "", search_of(1), 32)
    assert [network.name for network in networks] == ["super", "core"]
    for network in networks:
        hypotheses = (folder / f"test.{network.name}.txt").read_text().removesuffix("\n").split("\n")
        assert network.bleu == sacrebleu.corpus_bleu(hypotheses, [raw_references(toy_data, "de")]).score

    references = (data / f"test.{target}").read_text()
    (data / f"test.{target}").write_text(references + "one more\n")
    with pytest.raises(ValueError, match=f"test.{target} has 41 lines, and the binarised test has 40 sentences"):
        evaluate(data, folder, "", search_of(1), 32)
    (data / f"test.{target}").unlink()
    with pytest.raises(ValueError, match=f"has no test.{target}, the raw references"):
        evaluate(data, folder, "", search_of(1), 32)


def test_a_sentence_longer_than_the_network_takes(run: Run, toy_data: Path) -> None:
    model, task = load(networks_of(run("--max-source-positions", "6"))[0], toy_data)
    with pytest.raises(ValueError, match=r"sentence \d+ of test has \d+ tokens with its end, and the network takes 6;"):
        batches_of(model, task, "test", 8)


def test_only_the_network_limits_sentences(run: Run, toy_data: Path) -> None:
    """Not the task, whose limits are for training; and references are only scored against, however long."""
    model, task = load(networks_of(run("--max-source-positions", "30", "--max-target-positions", "3"))[0], toy_data)
    task.cfg.max_source_positions = task.cfg.max_target_positions = 3
    batches = batches_of(model, task, "test", 8)
    assert sorted(index for batch in batches for index in batch["id"].tolist()) == list(range(40))


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    (tmp_path / "test.deu").write_bytes("eins\u2028zwei\x85drei\rvier\nfünf\n".encode())
    assert raw_references(tmp_path, "deu") == ["eins\u2028zwei\x85drei\rvier", "fünf"]


def test_words_without_a_sentencepiece_model_stay_apart() -> None:
    for words, text in ((["ein", "Baum@@", "haus"], "ein Baum@@ haus"), (["▁ein", "▁Baum", "haus"], "ein Baumhaus")):
        dictionary = Dictionary()
        tokens = [dictionary.add_symbol(word) for word in words]
        task = SimpleNamespace(target_dictionary=dictionary)
        assert text_of(task, torch.tensor([*tokens, dictionary.eos(), dictionary.pad()])) == text


def test_further_test_sets_are_scored(run: Run, toy_data: Path, tmp_path: Path) -> None:
    """The data's own test set as a further one: the same translations, scores and names of files."""
    folder, further = run(), tmp_path / "further"
    further.mkdir()
    for language in ("en", "de"):
        (further / f"copy.{language}").write_bytes((toy_data / f"test.{language}").read_bytes())
    networks = evaluate(toy_data, folder, "", search_of(2), 32, further)
    assert [network.name for network in networks] == ["super", "core"]
    for network in networks:
        assert network.tests["copy"] == network.tests["test"]
        assert network.tests["test"]["bleu"] == network.bleu
        assert (folder / f"copy.{network.name}.txt").read_bytes() == (folder / f"test.{network.name}.txt").read_bytes()
        assert network.to_dict()["tests"] == network.tests

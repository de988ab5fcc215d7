"""Distilled data: the network's translations, piece by piece, beside everything else of the data."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_dataset

from fairseq_ats.cli.distil import main
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.inference import distil as inference
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.distil import check_dictionaries, distil
from fairseq_ats.inference.translator import Translator
from fairseq_ats.partition.partition import Partition
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]

PAIR = "train.en-de"


def test_targets_are_the_networks_translations(
    two_trained_networks: Path, build: Build, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = two_trained_networks / "checkpoint_last.pt"
    output = tmp_path / "distilled"
    command = [str(toy_data), str(checkpoint), str(output), "--level", "core", "--beam", "2", "--batch-size", "300"]
    main(command)
    assert not logging.getLogger("filelock").isEnabledFor(logging.DEBUG)
    dictionary = Dictionary.load(str(toy_data / "dict.de.txt"))
    sources, targets = (make_dataset(str(output / f"{PAIR}.{language}"), "mmap") for language in ("en", "de"))
    assert len(sources) == len(targets) == 600
    translator = Translator(checkpoint, "core", data=toy_data, beam=2)
    for number in (0, 7, 599):
        pieces = [dictionary[token] for token in sources[number].tolist()[:-1]]
        (expected,) = translator.translate_pieces([pieces])
        assert targets[number].tolist() == [*map(dictionary.index, expected), dictionary.eos()]

    new = {f"{PAIR}.de.bin", f"{PAIR}.de.idx", "binarised.json"}
    assert {path.name for path in output.iterdir()} == {path.name for path in toy_data.iterdir() if path.is_file()}
    for path in toy_data.iterdir():
        if path.is_file():
            assert (path.read_bytes() == (output / path.name).read_bytes()) == (path.name not in new), path.name
    stamp = json.loads((output / "binarised.json").read_text())
    assert stamp["targets"]["level"] == "core"

    before = (output / f"{PAIR}.de.bin").stat().st_mtime_ns
    main(command)
    assert "up to date" in capsys.readouterr().out
    assert (output / f"{PAIR}.de.bin").stat().st_mtime_ns == before
    # The data of a training of its own, and targets of the core.
    built = build("--alternate", "--core-data", str(output))
    built.task.load_dataset("train")
    assert built.task.dataset("train")[5]["core_targets"]["target"].tolist() == targets[5].tolist()


def copied(data: Path, folder: Path, *left_out: str) -> Path:
    folder.mkdir()
    for path in data.iterdir():
        if path.is_file() and path.name not in left_out:
            shutil.copy(path, folder)
    return folder


def test_data_are_no_output(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """References would be lost."""
    data, other = copied(toy_data, tmp_path / "data"), copied(toy_data, tmp_path / "other")
    before = (data / f"{PAIR}.de.bin").read_bytes()
    for output in (data, other):
        with pytest.raises(SystemExit):
            main([str(data), str(two_trained_networks / "checkpoint_last.pt"), str(output), "--beam", "1"])
        assert f"OUTPUT is {output}, which holds data that distil did not write" in capsys.readouterr().err
        assert (output / f"{PAIR}.de.bin").read_bytes() == before


def test_data_without_a_stamp_are_told_apart(tmp_path: Path, toy_data: Path) -> None:
    """Those of fairseq-preprocess; with other sources the translations are made again."""
    data, output = copied(toy_data, tmp_path / "data", "binarised.json"), tmp_path / "output"
    copies = SimpleNamespace(translate_pieces=lambda sentences: sentences)

    def run() -> bool:
        return distil(DataFolder.find(data, {}), copies, {}, output, lambda sentences, count: sentences)

    assert [run(), run()] == [True, False]
    for end in ("bin", "idx"):
        for language in ("en", "de"):
            shutil.copy(toy_data / f"valid.en-de.{language}.{end}", data / f"{PAIR}.{language}.{end}")
    assert run()


def test_a_folder_has_the_dictionaries_of_the_data(toy_data: Path, tmp_path: Path) -> None:
    folder = copied(toy_data, tmp_path / "folder")
    fields: dict[str, Any] = {"network": "core", "weights": "float32", "sentencepiece_model": None, "lowercase": False}
    fields |= {"source_language": "en", "target_language": "de", "max_source_positions": 9, "max_target_positions": 9}
    fields |= {"source_dictionary": "dict.en.txt", "target_dictionary": "dict.de.txt"}
    DeployedFolder(format="ctranslate2", partition=Partition(), **fields).write(folder)
    check_dictionaries(folder, DataFolder.find(toy_data, {}))
    lines = (folder / "dict.de.txt").read_text().splitlines(keepends=True)
    (folder / "dict.de.txt").write_text("".join(reversed(lines)))
    with pytest.raises(ValueError, match=r"whose dict\.de\.txt is not that of"):
        check_dictionaries(folder, DataFolder.find(toy_data, {}))


def test_the_network_says_the_languages(
    build: Build, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from German to English, on the same files, reads German."""
    checkpoint = save_checkpoint(build("--source-lang", "de", "--target-lang", "en"), tmp_path / "checkpoint.pt")
    given = []
    monkeypatch.setattr(inference, "distil", lambda data, *rest: given.append(data.languages))
    main([str(toy_data), str(checkpoint), str(tmp_path / "output")])
    assert given == [("de", "en")]


def test_a_folder_with_other_files_is_left_alone(build: Build, toy_data: Path, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(build(), tmp_path / "checkpoint.pt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(toy_data), str(checkpoint), str(tmp_path / "mine")])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_card_that_is_not_there(
    build: Build, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    checkpoint = save_checkpoint(build(), tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit):
        main([str(toy_data), str(checkpoint), str(tmp_path / "output"), "--device", "cuda"])
    assert "--device is cuda, and torch finds no CUDA device; allowed here: cpu, auto" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()

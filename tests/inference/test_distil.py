"""Distilled data: the network's translations, piece by piece, beside everything else of the data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_dataset

from fairseq_ats.cli.distil import main
from fairseq_ats.inference.translator import Translator
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


def test_a_folder_with_other_files_is_left_alone(build: Build, toy_data: Path, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(build(), tmp_path / "checkpoint.pt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(toy_data), str(checkpoint), str(tmp_path / "mine")])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]

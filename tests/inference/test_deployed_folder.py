"""The description of a folder that translates by itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fairseq_ats.inference.deployed_folder import DESCRIPTION_FILE, DeployedFolder
from fairseq_ats.partition.partition import Partition

DESCRIPTION = DeployedFolder(
    format="onnx",
    network="core",
    partition=Partition("PartitionedRankLinear", 0.25, 2),
    source_language="en",
    target_language="de",
    source_dictionary="dict.en.txt",
    target_dictionary="dict.de.txt",
    sentencepiece_model="pieces.model",
    lowercase=False,
    weights="float32",
    max_source_positions=1024,
    max_target_positions=512,
    beam=4,
    versions={"torch": "2.13.0"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("dict.en.txt", "dict.de.txt", "pieces.model"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_description_is_read_back(folder: Path) -> None:
    DESCRIPTION.write(folder)
    assert DeployedFolder.read(folder) == DESCRIPTION
    written = json.loads((folder / DESCRIPTION_FILE).read_text())
    assert (written["schema"], written["level"]) == (1, 1)
    assert written["partition"] == {"module_name": "PartitionedRankLinear", "small_ratio": 0.25, "max_level": 2}

    without_pieces = dataclasses.replace(DESCRIPTION, sentencepiece_model=None)
    without_pieces.write(folder)
    assert DeployedFolder.read(folder) == without_pieces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "is not of schema 1"),
        ({"format": "tflite"}, "format is 'tflite'; allowed: ctranslate2, onnx"),
        ({"network": "extension"}, "network is 'extension'"),
        ({"source_dictionary": "../secret"}, "'../secret' is not the name of a file"),
        ({"target_dictionary": ".."}, "'..' is not the name of a file"),
        ({"sentencepiece_model": "gone.model"}, "names gone.model, which is not in"),
        ({"lowercase": "no"}, "lowercase is .no.; allowed: true, false"),
        ({"partition": {"small_ratio": 2}}, "--small-ratio is 2; allowed"),
        ({"beam": 0}, "beam is 0; allowed: a positive number"),
        ({"max_len_b": "200"}, "max_len_b is '200'; allowed: a positive number"),
        ({"max_len_a": "0"}, "max_len_a is '0'; allowed: a finite number from 0 up"),
        ({"max_len_a": -1}, "max_len_a is -1; allowed: a finite number from 0 up"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; allowed: a finite number"),
        ({"level": 2}, "network is 'core' and level is 2"),
        ({"partition": 3}, "does not describe a folder"),
    ],
)
def test_wrong_descriptions_are_refused(folder: Path, change: dict, message: str) -> None:
    DESCRIPTION.write(folder)
    content = json.loads((folder / DESCRIPTION_FILE).read_text()) | change
    (folder / DESCRIPTION_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        DeployedFolder.read(folder)


@pytest.mark.parametrize("field", ["format", "partition", "source_language", "weights"])
def test_a_description_without_a_field_is_refused(folder: Path, field: str) -> None:
    DESCRIPTION.write(folder)
    content = json.loads((folder / DESCRIPTION_FILE).read_text())
    del content[field]
    (folder / DESCRIPTION_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=field):
        DeployedFolder.read(folder)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was not written by fairseq-ats-convert: it has no fairseq_ats\.json"):
        DeployedFolder.read(tmp_path)
    (tmp_path / DESCRIPTION_FILE).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        DeployedFolder.read(tmp_path)

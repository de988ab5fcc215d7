"""Configuration files: bases, what a file changes in its base, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairseq_ats.cli.config_file import options_of, read_config


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_a_file_changes_its_base(tmp_path: Path) -> None:
    """The base's base comes first; paths are relative to the file that names them, wherever the command is called."""
    write(
        tmp_path,
        first="lr: 0.1\ncpu: true\neval_bleu_args: {beam: 4, lenpen: 2}\nmax_epoch: 3\n",
        folder__second="base: ../first.yaml\nlr: 0.2\nmax_epoch: null\ndropout: 0.3\n",
        folder__third="base: second.yaml\ndropout: 0.4\neval_bleu_args: {beam: 1}\n",
    )
    config = read_config(tmp_path / "folder/third.yaml")
    assert config == {"lr": 0.2, "cpu": True, "eval_bleu_args": {"beam": 1}, "dropout": 0.4}
    assert read_config(tmp_path / "first.yaml")["max_epoch"] == 3, "a base stays as it is"
    expected = ["--lr", "0.2", "--cpu", "--eval-bleu-args", '{"beam": 1}', "--dropout", "0.4"]
    assert options_of(config, tmp_path / "folder/third.yaml") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: missing.yaml", "own.yaml: base is {}/missing.yaml, which is not a file"),
        ("base: own.yaml", "own.yaml: base is {}/own.yaml, which leads back to itself"),
        ("base: circle.yaml", "circle.yaml: base is {}/own.yaml, which leads back to itself"),
        ("base: list.yaml", "{}/list.yaml must hold fairseq's options"),
        ("base: 3", "own.yaml: base is 3; allowed: the path of a configuration file"),
        (
            "base: good.yaml\nseed: null",
            "own.yaml: seed is null, which removes an option of good.yaml, and",
        ),
    ],
)
def test_bases_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, own=text, circle="base: own.yaml", good="lr: 0.1", list="- a list")
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path))) as refused:
        read_config(tmp_path / "own.yaml")
    assert "\n" not in str(refused.value)

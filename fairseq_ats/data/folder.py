"""Read what a folder of binarised data says about the text that a checkpoint translates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.data.data_utils import infer_language_pair
from fairseq.utils import split_paths

from fairseq_ats.data.binarise import SENTENCEPIECE_MODEL, STAMP
from fairseq_ats.data.text import Languages


@dataclass(frozen=True)
class DataFolder:
    """Dictionaries, language pair, and how text was cut.

    Args:
        path: holds ``dict.LANGUAGE.txt`` of both languages.
        sentencepiece_model: None if the folder has none.
        lowercase: the text was lower-cased before it was cut.
    """

    path: Path
    source_language: str
    target_language: str
    sentencepiece_model: Path | None
    lowercase: bool

    @property
    def languages(self) -> Languages:
        return self.source_language, self.target_language

    @classmethod
    def find(cls, given: Path | None, task_options: Mapping[str, Any]) -> DataFolder:
        """Return the folder of ``--data``, or else the one that the checkpoint was trained with.

        Args:
            task_options: the checkpoint's options of the task.

        Raises:
            ValueError: there is no such folder, or it lacks a dictionary or the language pair.
        """
        path = given or Path(_first_folder(task_options["data"]))
        if not path.is_dir():
            said = "--data is" if given else "the checkpoint was trained with"
            raise ValueError(f"{said} {path}, which is not a folder; --data names the folder of its binarised data")
        stamp = _read_stamp(path / STAMP)
        # fairseq saves the languages only if they were given; else it reads them off the names of the data files.
        languages = (task_options.get("source_lang"), task_options.get("target_lang"))
        if None in languages:
            languages = (stamp.get("source"), stamp.get("target"))
        if None in languages:
            languages = tuple(infer_language_pair(str(path)))
        if None in languages:
            raise ValueError(
                f"{path} does not tell its languages: it has no file like train.en-de.en.idx, and no {STAMP}"
            )
        source, target = map(str, languages)
        for language in (source, target):
            if not (path / f"dict.{language}.txt").is_file():
                raise ValueError(f"{path} is not a folder of binarised {language} data: it has no dict.{language}.txt")
        model = path / SENTENCEPIECE_MODEL
        return cls(path, source, target, model if model.is_file() else None, stamp.get("lowercase", False))


def _first_folder(data: str | Sequence[str]) -> str:
    """Return the first folder of a training; an early fairseq saved a list (fairseq/checkpoint_utils.py:704)."""
    return split_paths(data if isinstance(data, str) else data[0])[0]


def _read_stamp(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error

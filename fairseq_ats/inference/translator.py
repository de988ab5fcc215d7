"""Translate lines of text with one network, in order."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

from fairseq_ats.data.text import READS_TOKENS, Languages, Pieces, Text, parts
from fairseq_ats.inference.ctranslate2_engine import CTranslate2Engine
from fairseq_ats.inference.deployed_folder import DeployedFolder, check_sums
from fairseq_ats.inference.engine import Engine, Machine, Search
from fairseq_ats.inference.onnx_engine import OnnxEngine
from fairseq_ats.partition.partition import PERTURBED, PERTURBED_LEVEL, check_level_name

logger = logging.getLogger(__name__)

BUFFER_SIZE = 512


class Translator:
    """One network, ready to translate lines of text.

    Every input line gives one output line. A blank line gives a blank line. A line is translated in parts if it is
    longer than the network's longest source or target, or longer than the longest allowed translation. ``languages``
    are those of the source and of the target.

    Args:
        path: a checkpoint of this plugin's task or of stock fairseq's ``translation``, or a folder that
            ``fairseq-ats-convert`` wrote.
        level: "core", "super", "level2", ..., the level's number, or "perturbed". None means the network of a folder,
            or the highest network of a checkpoint.
        data: for a checkpoint, the folder with its dictionaries and ``sentencepiece.model``; None means the folder that
            the checkpoint was trained with.
        sentencepiece_model: for a checkpoint, the sentencepiece model, if it is not in ``data``. Without a
            sentencepiece model, lines are tokens with spaces between them.
        beam, max_len_a, max_len_b, length_penalty: see :class:`~fairseq_ats.inference.engine.Search`; None means the
            value in the folder's description, or fairseq's default for a checkpoint.
        batch_size, threads, workers, device: see :class:`~fairseq_ats.inference.engine.Machine`.
        shortlist: use the shortlist of a folder that has one.

    Raises:
        ValueError: a file or a package is missing, a file is damaged or carries code, the file or folder does not
            contain the level, or an option has a value outside its allowed values.
    """

    def __init__(
        self,
        path: str | Path,
        level: str | int | None = None,
        *,
        data: str | Path | None = None,
        sentencepiece_model: str | Path | None = None,
        beam: int | None = None,
        max_len_a: float | None = None,
        max_len_b: int | None = None,
        length_penalty: float | None = None,
        batch_size: int = 32,
        threads: int | None = None,
        workers: int = 1,
        device: str = "auto",
        shortlist: bool = True,
    ) -> None:
        path = Path(path)
        machine = Machine(batch_size, threads, workers, device)
        search = {"beam": beam, "max_len_a": max_len_a, "max_len_b": max_len_b, "length_penalty": length_penalty}
        given: dict[str, Any] = {name: value for name, value in search.items() if value is not None}
        if level is not None:
            check_level_name(level)
        if path.is_dir():
            for option, value in (("--data", data), ("--sentencepiece-model", sentencepiece_model)):
                if value is not None:
                    raise ValueError(
                        f"{option} is {value} and {path} is a folder, which brings its own; leave {option} out"
                    )
            self._engine, self._text, self.languages = _open_folder(path, level, given, machine, shortlist)
        elif path.is_file():
            data = None if data is None else Path(data)
            model = None if sentencepiece_model is None else Path(sentencepiece_model)
            try:
                from fairseq_ats.inference.fairseq_engine import open_checkpoint
            except ModuleNotFoundError as error:
                raise ValueError(f"{path} is a file, and a checkpoint needs torch and fairseq: {error}") from error
            opened = open_checkpoint(path, level, data, model, Search(**given), machine)
            self._engine, self._text, self.languages = opened
        else:
            raise ValueError(f"{path} is neither a checkpoint nor a folder")

    # A string is also an iterable of strings, so the overloads overlap; a string counts as one line.
    @overload
    def __call__(self, text: str) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, text: Iterable[str]) -> list[str]: ...

    def __call__(self, text: str | Iterable[str]) -> str | list[str]:
        """Translate one line or several lines; a string is one line, even if it contains line breaks."""
        if isinstance(text, str):
            return self._translate([text])[0]
        return list(self.translate(text))

    def translate(self, lines: Iterable[str], buffer_size: int = BUFFER_SIZE) -> Iterator[str]:
        """Translate a stream of lines, and yield the translations in the order of the lines.

        Args:
            lines: the lines.
            buffer_size: the number of lines to read before translating them. A larger buffer lets the engine put lines
                of similar length into one batch.
        """
        lines = iter(lines)
        while buffer := list(islice(lines, buffer_size)):
            yield from self._translate(buffer)

    def _translate(self, lines: Sequence[str]) -> list[str]:
        """Translate lines together, and join the translations of a line's parts."""
        translated = self._in_parts([self._text.encode(line) for line in lines])
        joined = (" ".join(self._text.decode(pieces) for pieces in of_line) for of_line in translated)
        return [line.replace("\n", " ") for line in joined]

    def translate_pieces(self, sentences: Sequence[Pieces]) -> list[Pieces]:
        """Translate sentences that are cut into pieces already; the result is pieces of the target language."""
        return [list(chain.from_iterable(of_sentence)) for of_sentence in self._in_parts(sentences)]

    def _in_parts(self, sentences: Sequence[Pieces]) -> list[list[Pieces]]:
        """Translate sentences together; one that is too long is cut, and has a translation for each part."""
        limit = self._engine.max_source_pieces
        cut = [list(parts(sentence, limit)) for sentence in sentences]
        for sentence, of_sentence in zip(sentences, cut, strict=True):
            if len(of_sentence) > 1:
                logger.warning(
                    f"a line of {len(sentence):,} pieces is translated in {len(of_sentence)} parts of at most {limit} "
                    "pieces"
                )
        translated = iter(self._engine.translate([part for of_sentence in cut for part in of_sentence]))
        return [[next(translated) for _ in of_sentence] for of_sentence in cut]


def _open_folder(
    path: Path, level: str | int | None, given: dict[str, Any], machine: Machine, shortlist: bool
) -> tuple[Engine, Text, Languages]:
    """Open a folder that ``fairseq-ats-convert`` wrote.

    Args:
        given: the search options that replace the folder's defaults.
        shortlist: use the folder's shortlist, if it has one.

    Raises:
        ValueError: the folder is damaged, does not contain the level, or cannot run on the machine.
    """
    folder = DeployedFolder.read(path)
    check_sums(path)
    number = folder.level
    if level is not None:
        number = PERTURBED_LEVEL if level == PERTURBED else folder.partition.level_of(level)
    if number != folder.level:
        raise ValueError(f"--level is {level} and {path} holds the {folder.network} (level {folder.level}) only")
    defaults = {field.name: getattr(folder, field.name) for field in dataclasses.fields(Search)}
    search = Search(**(defaults | given))
    model = None if folder.sentencepiece_model is None else path / folder.sentencepiece_model
    if model is None:
        logger.warning(f"{path} has {READS_TOKENS}")
    text = Text(model, folder.lowercase)
    if folder.format == "ctranslate2":
        return CTranslate2Engine(path, folder.max_positions, search, machine, shortlist), text, folder.languages
    if folder.format == "huggingface":
        try:
            from fairseq_ats.inference.huggingface_engine import HuggingFaceEngine
        except ModuleNotFoundError as error:
            raise ValueError(f"{path} is of format huggingface, which needs torch: {error}") from error
        return HuggingFaceEngine(path, folder.max_positions, search, machine), text, folder.languages
    return OnnxEngine(path, folder, search, machine), text, folder.languages

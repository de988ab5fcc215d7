"""Turn raw parallel text into fairseq's binarised data, cut into pieces by one sentencepiece model for both languages.

Text is read as a stream: memory is what sentencepiece needs for the lines that it learns from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece

from fairseq_ats.data.lines import count_lines, read_lines, write_lines
from fairseq_ats.files import check_ours, made_once, stamp_of

SENTENCEPIECE_MODEL = "sentencepiece.model"
STAMP = "binarised.json"
SPLITS = ("train", "valid", "test")
_LINES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Binarisation:
    """How raw text becomes binarised data; the options of ``fairseq-ats binarise``.

    Args:
        source, target: languages, as in the names of the files.
        vocabulary: sentencepiece pieces, both languages together.
        lowercase: lower-case all text, references too.
        longest: leave out the pairs of train and valid with more pieces on a side.
        ratio: leave out the pairs of train and valid with more than ``ratio`` times the pieces on one side.
        sample: lines of each language that sentencepiece learns from; None: all.

    Raises:
        ValueError: a value is not allowed.
    """

    source: str
    target: str
    vocabulary: int = 8000
    lowercase: bool = False
    longest: int | None = None
    ratio: float | None = None
    sample: int | None = None

    def __post_init__(self) -> None:
        if (self.longest is None) != (self.ratio is None):
            raise ValueError("--longest and --ratio are given both or not at all")
        if self.source == self.target:
            raise ValueError(f"--source and --target are both {self.source}; they must differ")
        for name in ("vocabulary", "longest", "ratio", "sample"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"--{name} is {value}; allowed: 1 or more")

    @property
    def languages(self) -> tuple[str, str]:
        return (self.source, self.target)

    def stamp(self, raw: Path) -> dict[str, Any]:
        """Return what data depend on that are made of the files in ``raw``."""
        stamp = {
            "source": self.source,
            "target": self.target,
            "vocabulary": self.vocabulary,
            "lowercase": self.lowercase,
            "raw": _fingerprint(raw, self.languages),
        }
        # Data that are older than these options have no entry for them.
        optional = {"longest": self.longest, "ratio": self.ratio, "sample": self.sample}
        return stamp | {name: value for name, value in optional.items() if value is not None}

    def keeps(self, split: str, source_pieces: int, target_pieces: int) -> bool:
        """Tell whether a pair of a split is short and alike enough."""
        if split == "test" or self.longest is None or self.ratio is None:
            return True
        return fits(source_pieces, target_pieces, self.longest, self.ratio)


def fits(source_tokens: int, target_tokens: int, longest: int, ratio: float) -> bool:
    """Tell whether Moses' ``clean-corpus-n.perl -ratio RATIO 1 LONGEST`` keeps a pair of these lengths."""
    shorter, longer = sorted((source_tokens, target_tokens))
    return shorter >= 1 and longer <= longest and longer <= ratio * shorter


def binarise(
    raw: Path,
    output: Path,
    how: Binarisation,
    say: Callable[[str], None],
    workers: int = 2,
    names: Mapping[str, Path] | None = None,
) -> None:
    """Write ``output`` whole or not at all; do nothing if it was made from the same text in the same way.

    Args:
        raw: folder with train, valid and test as ``SPLIT.LANGUAGE``, one sentence a line.
        output: gets fairseq's data with one dictionary for both languages, the sentencepiece model, and the raw
            references ``test.LANGUAGE``.
        say: takes what a person may want to know on the way.
        workers: processes.
        names: file name in ``raw`` → file to name in an error instead, of which it is a copy.

    Raises:
        ValueError: a file is missing, blank, or does not fit its translation; ``output`` holds other files; or
            sentencepiece or fairseq-preprocess refuses the text.
    """
    for split in SPLITS:
        for language in how.languages:
            path = raw / f"{split}.{language}"
            if not path.is_file():
                raise ValueError(f"{path} is missing")
    stamp = how.stamp(raw)
    if stamp_of(output, STAMP) == stamp:
        say(f"{output} is up to date")
        return
    check_ours(output, STAMP)
    counts = _check_raw(raw, how, names or {}, say)
    with made_once(output, STAMP, stamp) as result, tempfile.TemporaryDirectory(dir=result.parent) as scratch:
        _Build(raw, how, workers, say, result, Path(scratch)).run(counts)
    say(f"wrote {output}")


def _check_raw(raw: Path, how: Binarisation, names: Mapping[str, Path], say: Callable[[str], None]) -> dict[str, int]:
    """Return the number of lines of each split; say how many are blank.

    Raises:
        ValueError: the files of a pair have different numbers of lines, or a file is not UTF-8 or is blank.
    """
    lines = {}
    for split in SPLITS:
        files = [f"{split}.{language}" for language in how.languages]
        shown = [names.get(file, raw / file) for file in files]
        (source, source_blank), (target, target_blank) = (
            count_lines(read_lines(raw / file, name), name) for file, name in zip(files, shown, strict=True)
        )
        if source == target == 0:
            raise ValueError(f"{shown[0]} and {shown[1]} are empty")
        if source != target:
            raise ValueError(f"{shown[0]} has {source} lines and {shown[1]} has {target}; they must be equal")
        if split == "test":
            what = "they are kept"
        elif how.longest is None:
            what = "their pairs are kept; --longest and --ratio of fairseq-ats binarise leave them out"
        else:
            what = "their pairs are left out"
        for name, blank in zip(shown, (source_blank, target_blank), strict=True):
            if blank > 0:
                say(f"{name}: {blank:,} of {source:,} lines are blank; {what}")
        lines[split] = source
    return lines


def _fingerprint(raw: Path, languages: tuple[str, str]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for language in languages:
            with (raw / f"{split}.{language}").open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Build:
    """One binarisation on its way: ``result`` is kept, ``scratch`` is not."""

    raw: Path
    how: Binarisation
    workers: int
    say: Callable[[str], None]
    result: Path
    scratch: Path

    def run(self, counts: Mapping[str, int]) -> None:
        """Write everything to ``result``.

        Args:
            counts: lines of each split.
        """
        for split in SPLITS:
            for language in self.how.languages:
                # "\r" would end a line for sentencepiece and fairseq-preprocess.
                lines = (line.replace("\r", " ").strip() for line in read_lines(self.raw / f"{split}.{language}"))
                lowered = (line.lower() for line in lines) if self.how.lowercase else lines
                write_lines(self._text(split, language), lowered)
        encoder = self._learn_pieces(counts["train"])
        for split in SPLITS:
            kept = self._cut(encoder, split)
            if kept == 0:
                raise ValueError(f"--longest {self.how.longest} and --ratio {self.how.ratio} leave nothing of {split}")
            if kept < counts[split]:
                self.say(f"{split}: {kept:,} of {counts[split]:,} pairs are short and alike enough")
        self._preprocess()
        for language in self.how.languages:
            shutil.copyfile(self._text("test", language), self.result / f"test.{language}")

    def _text(self, split: str, language: str) -> Path:
        return self.scratch / f"text.{split}.{language}"

    def _pieces(self, split: str, language: str) -> Path:
        return self.scratch / f"pieces.{split}.{language}"

    def _learn_pieces(self, lines: int) -> sentencepiece.SentencePieceProcessor:
        """Learn a sentencepiece model from all lines of train, or from evenly spaced ones."""
        self.say(f"sentencepiece, {self.how.vocabulary} pieces")
        paths = [self._text("train", language) for language in self.how.languages]
        if self.how.sample is not None and self.how.sample < lines:
            for i, path in enumerate(paths):
                paths[i] = self._text("sample", self.how.languages[i])
                write_lines(paths[i], evenly_spaced(read_lines(path), lines, self.how.sample))
        prefix = self.scratch / "sentencepiece"
        options: dict[str, Any] = {"model_type": "bpe", "character_coverage": 1.0, "num_threads": 1, "minloglevel": 2}
        options |= {"model_prefix": str(prefix), "vocab_size": self.how.vocabulary}
        try:
            sentencepiece.SentencePieceTrainer.train(input=[str(path) for path in paths], **options)
        except RuntimeError as error:
            raise ValueError(
                f"--vocabulary is {self.how.vocabulary}, which sentencepiece refuses for this text: {error}"
            ) from error
        model = self.result / SENTENCEPIECE_MODEL
        shutil.copyfile(f"{prefix}.model", model)
        return sentencepiece.SentencePieceProcessor(model_file=str(model))

    def _cut(self, encoder: sentencepiece.SentencePieceProcessor, split: str) -> int:
        """Cut the lines of a split into pieces; return the number of pairs that are kept and written."""
        kept = 0
        sources, targets = (read_lines(self._text(split, language)) for language in self.how.languages)
        source_path, target_path = (self._pieces(split, language) for language in self.how.languages)
        with (
            source_path.open("w", encoding="utf-8", newline="\n") as source_file,
            target_path.open("w", encoding="utf-8", newline="\n") as target_file,
        ):
            pairs = zip(sources, targets, strict=True)
            while lines := list(islice(pairs, _LINES_AT_ONCE)):
                both = (
                    encoder.encode(list(side), out_type=str, num_threads=self.workers)
                    for side in zip(*lines, strict=True)
                )
                for source, target in zip(*both, strict=True):
                    if self.how.keeps(split, len(source), len(target)):
                        kept += 1
                        source_file.write(" ".join(source) + "\n")
                        target_file.write(" ".join(target) + "\n")
        return kept

    def _preprocess(self) -> None:
        self.say("fairseq-preprocess")
        tool = Path(sys.executable).parent / "fairseq-preprocess"
        if not tool.is_file():
            raise ValueError(f"{tool} is missing; install fairseq into this environment")
        command = [sys.executable, str(tool), "--source-lang", self.how.source, "--target-lang", self.how.target]
        for split in SPLITS:
            command += [f"--{split}pref", str(self.scratch / f"pieces.{split}")]
        command += ["--joined-dictionary", "--destdir", str(self.result), "--workers", str(self.workers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(f"fairseq-preprocess failed:\n{done.stderr[-2000:]}")


def evenly_spaced(lines: Iterable[str], count: int, sample: int) -> Iterator[str]:
    """Yield ``sample`` of ``count`` lines: line n where n·sample/count, rounded down, goes up."""
    for n, line in enumerate(lines, start=1):
        if n * sample // count > (n - 1) * sample // count:
            yield line

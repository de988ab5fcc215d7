#!/usr/bin/env python3
"""Raw parallel text → sentencepiece model → fairseq's binarised data.

    python scripts/binarise.py RAW OUTPUT --source en --target de --vocabulary 8000

RAW holds train, valid and test as ``SPLIT.LANGUAGE``, one sentence a line. OUTPUT gets fairseq's binarised data with
one dictionary for both languages, ``sentencepiece.model``, and the raw references ``test.LANGUAGE``. It is written
whole or not at all; a call with the same RAW and options returns at once. Text is read as a stream, so that memory is
what sentencepiece needs for the lines that it learns from (``--sample``).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece
from parallel_text import count_lines, fits
from stages import is_done, written_once

SPLITS = ("train", "valid", "test")
STAMP = "binarised.json"
LINES_AT_ONCE = 10_000
GZIP = b"\x1f\x8b"  # how a gzip file begins


def main(arguments: Sequence[str] | None = None, names: Mapping[str, Path] | None = None) -> None:
    """The command line.

    Args:
        names: of files in RAW that are temporary copies: file name → the person's file, which messages name.
    """
    args = parse_args(arguments)
    languages = (args.source, args.target)
    check_present(args.raw, languages)
    stamp = {
        "source": args.source,
        "target": args.target,
        "vocabulary": args.vocabulary,
        "lowercase": args.lowercase,
        "raw": fingerprint(args.raw, languages),
    }
    # Only if given: data that were made before there were these options stay valid.
    optional = {"longest": args.longest, "ratio": args.ratio, "sample": args.sample}
    stamp |= {name: value for name, value in optional.items() if value is not None}
    if is_done(args.output, STAMP, stamp):
        print(f"binarise: {args.output} is up to date")
        return
    try:
        counts = check_raw(args, languages, names or {})
        with written_once(args.output, STAMP, stamp) as result:
            build(args, languages, counts, result)
    except (ValueError, OSError) as error:
        sys.exit(f"binarise: {error}")
    print(f"binarise: wrote {args.output}")


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("--source", required=True, help="language to translate from, as in the file names")
    parser.add_argument("--target", required=True, help="language to translate to")
    parser.add_argument("--vocabulary", type=int, default=8000, help="sentencepiece pieces, both languages together")
    parser.add_argument("--lowercase", action="store_true", help="lower-case all text, references too")
    parser.add_argument("--longest", type=int, help="leave out pairs of more pieces, of train and valid")
    parser.add_argument("--ratio", type=float, help="leave out pairs of which one side has so many times the pieces")
    parser.add_argument(
        "--sample", type=int, help="lines of each language that sentencepiece learns from; default: all"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that binarise")
    args = parser.parse_args(arguments)
    if (args.longest is None) != (args.ratio is None):
        sys.exit("binarise: --longest and --ratio are given both or not at all")
    if args.source == args.target:
        sys.exit(f"binarise: --source and --target are both {args.source}; they must differ")
    for option, smallest in (("vocabulary", 1), ("longest", 1), ("ratio", 1), ("sample", 1), ("workers", 1)):
        value = vars(args)[option]
        if value is not None and value < smallest:
            sys.exit(f"binarise: --{option} is {value}; it must be at least {smallest}")
    return args


def check_present(raw: Path, languages: tuple[str, str]) -> None:
    for split in SPLITS:
        for language in languages:
            path = raw / f"{split}.{language}"
            if not path.is_file():
                sys.exit(f"binarise: {path} is missing")


def check_raw(args: argparse.Namespace, languages: tuple[str, str], names: Mapping[str, Path]) -> dict[str, int]:
    """Lines of each split; says how many are blank.

    Raises:
        ValueError: a pair has different numbers of lines, or a file is not UTF-8 or blank.
    """
    lines = {}
    for split in SPLITS:
        files = [f"{split}.{language}" for language in languages]
        shown = [names.get(file, args.raw / file) for file in files]
        (source, source_blank), (target, target_blank) = (
            count_lines(read_lines(args.raw / file, name), name) for file, name in zip(files, shown, strict=True)
        )
        if source == target == 0:
            raise ValueError(f"{shown[0]} and {shown[1]} are empty")
        if source != target:
            raise ValueError(f"{shown[0]} has {source} lines and {shown[1]} has {target}; they must be equal")
        if split == "test":
            what = "they are kept"
        elif args.longest is None:
            what = "their pairs are kept; --longest and --ratio of scripts/binarise.py leave them out"
        else:
            what = "their pairs are left out"
        for name, blank in zip(shown, (source_blank, target_blank), strict=True):
            if blank > 0:
                print(f"binarise: {name}: {blank:,} of {source:,} lines are blank; {what}", flush=True)
        lines[split] = source
    return lines


def read_lines(path: Path, name: Path | None = None) -> Iterator[str]:
    """Lines as fairseq counts them: a line ends at a newline and nowhere else, whatever separators Unicode knows.

    Args:
        name: of the file in a message; default: ``path``.

    Raises:
        ValueError: the file is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                if number == 1 and line.startswith(GZIP):
                    raise ValueError(f"{name or path} is compressed once more than its name says") from error
                raise ValueError(f"{name or path} is not UTF-8: line {number}: {error}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def fingerprint(raw: Path, languages: tuple[str, str]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for language in languages:
            with (raw / f"{split}.{language}").open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def build(args: argparse.Namespace, languages: tuple[str, str], counts: dict[str, int], result: Path) -> None:
    """Write the data to ``result``; what is needed on the way, beside it."""
    text, pieces = result.with_name("text"), result.with_name("pieces")
    text.mkdir()
    pieces.mkdir()
    for split in SPLITS:
        for language in languages:
            # "\r" would end a line for sentencepiece and fairseq-preprocess.
            lines = (line.replace("\r", " ").strip() for line in read_lines(args.raw / f"{split}.{language}"))
            lowered = (line.lower() for line in lines) if args.lowercase else lines
            write_lines(text / f"{split}.{language}", lowered)

    encoder = learn_pieces(args, languages, counts["train"], text, result / "sentencepiece.model")
    for split in SPLITS:
        paths = [(text / f"{split}.{language}", pieces / f"{split}.{language}") for language in languages]
        limits = {} if split == "test" or args.longest is None else {"longest": args.longest, "ratio": args.ratio}
        kept = cut(encoder, *paths, args.workers, limits)
        if kept == 0:
            sys.exit(f"binarise: --longest {args.longest} and --ratio {args.ratio} leave nothing of {split}")
        if kept < counts[split]:
            print(f"binarise: {split}: {kept:,} of {counts[split]:,} pairs are short and alike enough", flush=True)

    print("binarise: fairseq-preprocess", flush=True)
    tool = Path(sys.executable).parent / "fairseq-preprocess"
    if not tool.is_file():
        sys.exit(f"binarise: {tool} is missing; scripts/setup_env.sh installs it")
    command = [sys.executable, str(tool), "--source-lang", args.source, "--target-lang", args.target]
    command += ["--trainpref", str(pieces / "train"), "--validpref", str(pieces / "valid")]
    command += ["--testpref", str(pieces / "test"), "--joined-dictionary", "--destdir", str(result)]
    command += ["--workers", str(args.workers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"binarise: fairseq-preprocess failed:\n{done.stderr[-2000:]}")
    for language in languages:
        shutil.copyfile(text / f"test.{language}", result / f"test.{language}")


def evenly_spaced(lines: Iterable[str], count: int, sample: int) -> Iterator[str]:
    """``sample`` of ``count`` lines: line n where n·sample/count, rounded down, goes up."""
    for n, line in enumerate(lines, start=1):
        if n * sample // count > (n - 1) * sample // count:
            yield line


def learn_pieces(
    args: argparse.Namespace, languages: tuple[str, str], lines: int, text: Path, model: Path
) -> sentencepiece.SentencePieceProcessor:
    """A sentencepiece model of both languages, learnt from all lines or from ``--sample`` evenly spaced ones."""
    print(f"binarise: sentencepiece, {args.vocabulary} pieces", flush=True)
    paths = [text / f"train.{language}" for language in languages]
    if args.sample is not None and args.sample < lines:
        for i, path in enumerate(paths):
            paths[i] = path.with_name(f"sample.{languages[i]}")
            write_lines(paths[i], evenly_spaced(read_lines(path), lines, args.sample))
    options: dict[str, Any] = {"model_type": "bpe", "character_coverage": 1.0, "num_threads": 1, "minloglevel": 2}
    prefix = model.parent.with_name("sentencepiece")
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(path) for path in paths], model_prefix=str(prefix), vocab_size=args.vocabulary, **options
        )
    except RuntimeError as error:
        sys.exit(f"binarise: --vocabulary is {args.vocabulary}, which sentencepiece refuses for this text: {error}")
    shutil.copyfile(f"{prefix}.model", model)
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def cut(
    encoder: sentencepiece.SentencePieceProcessor,
    source: tuple[Path, Path],
    target: tuple[Path, Path],
    workers: int,
    limits: dict[str, Any],
) -> int:
    """Cut the lines of a pair of files into pieces; how many pairs are within the limits (``fits``) and written.

    Args:
        source, target: the file of text and the file of pieces.
    """
    kept = 0
    with (
        source[1].open("w", encoding="utf-8", newline="\n") as source_pieces,
        target[1].open("w", encoding="utf-8", newline="\n") as target_pieces,
    ):
        pairs = zip(read_lines(source[0]), read_lines(target[0]), strict=True)
        while lines := list(islice(pairs, LINES_AT_ONCE)):
            both = (encoder.encode(list(side), out_type=str, num_threads=workers) for side in zip(*lines, strict=True))
            for left, right in zip(*both, strict=True):
                if not limits or fits(len(left), len(right), **limits):
                    kept += 1
                    source_pieces.write(" ".join(left) + "\n")
                    target_pieces.write(" ".join(right) + "\n")
    return kept


if __name__ == "__main__":
    main()

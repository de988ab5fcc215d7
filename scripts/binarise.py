#!/usr/bin/env python3
"""Raw parallel text → sentencepiece model → fairseq's binarised data.

    python scripts/binarise.py RAW OUTPUT --source en --target de --vocabulary 8000

RAW holds train, valid and test as ``SPLIT.LANGUAGE``, one sentence a line. OUTPUT gets fairseq's binarised data with
one dictionary for both languages, ``sentencepiece.model``, and the raw references ``test.LANGUAGE``. It is written
whole or not at all; a call with the same RAW and options returns at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

SPLITS = ("train", "valid", "test")
STAMP = "binarised.json"


def main() -> None:
    args = parse_args()
    languages = (args.source, args.target)
    check_raw(args.raw, languages)
    stamp = {
        "source": args.source,
        "target": args.target,
        "vocabulary": args.vocabulary,
        "lowercase": args.lowercase,
        "raw": fingerprint(args.raw, languages),
    }
    if is_done(args.output, stamp):
        print(f"binarise: {args.output} is up to date")
        return
    if args.output.exists() and any(args.output.iterdir()) and not (args.output / STAMP).is_file():
        sys.exit(f"binarise: {args.output} holds files that this script did not write; give another OUTPUT")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".binarise-") as scratch:
        result = Path(scratch) / "data"
        build(args, languages, Path(scratch), result)
        (result / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
        if args.output.exists():
            shutil.rmtree(args.output)
        result.rename(args.output)
    print(f"binarise: wrote {args.output}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("--source", required=True, help="language to translate from, as in the file names")
    parser.add_argument("--target", required=True, help="language to translate to")
    parser.add_argument("--vocabulary", type=int, default=8000, help="sentencepiece pieces, both languages together")
    parser.add_argument("--lowercase", action="store_true", help="lower-case all text, references too")
    parser.add_argument("--workers", type=int, default=2, help="processes that binarise")
    args = parser.parse_args()
    for name in ("vocabulary", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: {getattr(args, name)} is not allowed; allowed: 1 or more")
    return args


def check_raw(raw: Path, languages: tuple[str, str]) -> None:
    """Exit with one sentence if a file is missing or a pair has different numbers of lines."""
    for split in SPLITS:
        paths = [raw / f"{split}.{language}" for language in languages]
        for path in paths:
            if not path.is_file():
                sys.exit(f"binarise: {path} is missing")
        counts = [len(read_lines(path)) for path in paths]
        if counts[0] != counts[1] or counts[0] == 0:
            sys.exit(f"binarise: {paths[0]} has {counts[0]} lines and {paths[1]} has {counts[1]}; they must be equal")


def read_lines(path: Path) -> list[str]:
    """Lines as fairseq counts them: a line ends at a newline and nowhere else, whatever separators Unicode knows."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        sys.exit(f"binarise: {path} is not UTF-8: {error}")
    return lines[:-1] if lines[-1] == "" else lines


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))


def fingerprint(raw: Path, languages: tuple[str, str]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for language in languages:
            digest.update((raw / f"{split}.{language}").read_bytes())
    return digest.hexdigest()


def is_done(output: Path, stamp: dict) -> bool:
    try:
        return json.loads((output / STAMP).read_text()) == stamp
    except (OSError, json.JSONDecodeError):
        return False


def build(args: argparse.Namespace, languages: tuple[str, str], scratch: Path, result: Path) -> None:
    text, pieces = scratch / "text", scratch / "pieces"
    text.mkdir()
    pieces.mkdir()
    for split in SPLITS:
        for language in languages:
            # "\r" would end a line for sentencepiece and fairseq-preprocess.
            lines = (line.replace("\r", " ").strip() for line in read_lines(args.raw / f"{split}.{language}"))
            lowered = (line.lower() for line in lines) if args.lowercase else lines
            write_lines(text / f"{split}.{language}", lowered)

    print(f"binarise: sentencepiece, {args.vocabulary} pieces", flush=True)
    model = scratch / "sentencepiece"
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(text / f"train.{language}") for language in languages],
            model_prefix=str(model),
            vocab_size=args.vocabulary,
            model_type="bpe",
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        sys.exit(f"binarise: --vocabulary is {args.vocabulary}, which sentencepiece refuses for this text: {error}")
    encoder = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
    for path in text.iterdir():
        write_lines(pieces / path.name, (" ".join(encoder.encode(line, out_type=str)) for line in read_lines(path)))

    print("binarise: fairseq-preprocess", flush=True)
    tool = Path(sys.executable).parent / "fairseq-preprocess"
    command = [sys.executable, str(tool), "--source-lang", args.source, "--target-lang", args.target]
    command += ["--trainpref", str(pieces / "train"), "--validpref", str(pieces / "valid")]
    command += ["--testpref", str(pieces / "test"), "--joined-dictionary", "--destdir", str(result)]
    command += ["--workers", str(args.workers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"binarise: {' '.join(command)} failed:\n{done.stderr[-2000:]}")

    shutil.copyfile(f"{model}.model", result / "sentencepiece.model")
    for language in languages:
        shutil.copyfile(text / f"test.{language}", result / f"test.{language}")


if __name__ == "__main__":
    main()

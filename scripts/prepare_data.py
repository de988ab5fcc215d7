#!/usr/bin/env python3
"""A public data set → binarised data, ready for training: what the scripts/prepare_*.sh run.

    python scripts/prepare_data.py iwslt14|wmt17|multi30k [options]

Archives are downloaded (an interrupted download goes on) or taken from a folder, checked, cleaned into raw text, and
binarised. Each stage is done once; one that was interrupted is done over. scripts/data_sets.py has the recipes.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import binarise
from archives import DAMAGED, Archive, ArchiveFolder
from data_sets import IWSLT14, MULTI30K_ADDRESS, MULTI30K_FILES, MULTI30K_LICENCE, WMT17, DataSet
from parallel_text import write_splits
from stages import check_ours, is_done, written_once

from fairseq_ats.cli.arguments import positive

RUNS = Path(__file__).resolve().parents[1] / "runs"
TEXT_STAMP = "text.json"


class OptionParser(argparse.ArgumentParser):
    """Says of a wrong option, in one line, what is allowed."""

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_args(arguments)
        if unknown:
            allowed = [action.option_strings[0] for action in self._actions if action.dest != "help"]
            self.error(f"unknown option {unknown[0]}; allowed: {' '.join(allowed)}")
        return args

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message = f"{message.split()[1].rstrip(':')} needs a value"
        sys.exit(f"{self.prog}: {message}")


def main(arguments: Sequence[str]) -> None:
    """Run a data set's script; every failure ends it with one sentence."""
    commands: dict[str, Callable[[str, Sequence[str]], None]] = {
        "iwslt14": lambda prog, options: prepare(IWSLT14, prog, options),
        "wmt17": lambda prog, options: prepare(WMT17, prog, options),
        "multi30k": prepare_multi30k,
    }
    if not arguments or arguments[0] not in commands:
        sys.exit(f"usage: prepare_data.py {'|'.join(commands)} [options]")
    prog = f"prepare_{arguments[0]}"
    # The default ends a process at once, and leaves behind what it was writing.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        commands[arguments[0]](prog, arguments[1:])
    except ValueError as error:
        sys.exit(f"{prog}: {error}")
    except OSError as error:
        sys.exit(f"{prog}: {error}; what was half written is removed, call again to go on")
    except KeyboardInterrupt:
        sys.exit(f"{prog}: interrupted; call again to go on")


def prepare(data_set: DataSet, prog: str, options: Sequence[str]) -> None:
    """Archives → raw text → binarised data.

    Raises:
        ValueError: an option is wrong, or an archive, its text or the disk is not what it should be.
    """
    parser = OptionParser(prog=prog, description=f"{data_set.title}. Licence: {data_set.licence}.", allow_abbrev=False)
    parser.add_argument("--archives", type=Path, metavar="DIR", help="holds the archives; else they are downloaded")
    parser.add_argument("--work", type=Path, metavar="DIR", default=RUNS / data_set.name, help="for archives and text")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the binarised data; default: data in --work")
    parser.add_argument("--vocabulary", type=positive, default=data_set.vocabulary, help="sentencepiece pieces")
    parser.add_argument("--workers", type=positive, default=2, help="processes that binarise")
    args = parser.parse(options)
    work, output = args.work, args.output or args.work / "data"
    if args.archives is not None and not args.archives.is_dir():
        raise ValueError(f"--archives is {args.archives}, which is not a folder")
    check_ours(work / "text", TEXT_STAMP)
    check_ours(output, binarise.STAMP)

    def say(message: str) -> None:
        print(f"{prog}: {message}", flush=True)

    say(data_set.title)
    say(f"licence: {data_set.licence}")
    if args.archives is not None:
        say(f"archives from {args.archives}: {', '.join(archive.name for archive in data_set.archives.values())}")
    else:
        say(f"downloads {data_set.download} MB to {work / 'download'}, as far as they are not there:")
        for archive in data_set.archives.values():
            say(f"  {archive.address}")
    say(f"text in {work / 'text'}, data in {output}; at most {data_set.disk} MB of disk, archives included")

    archives = ArchiveFolder(args.archives, work, say)
    text = work / "text"
    stamp = {name: archives.identity(archive) for name, archive in data_set.archives.items()}
    is_text_done = is_done(text, TEXT_STAMP, stamp)
    if not (is_text_done and (output / binarise.STAMP).is_file()):
        check_disk(work, data_set.disk)
    if not is_text_done:
        paths = {name: archives.get(archive) for name, archive in data_set.archives.items()}
        stamp = {name: archives.identity(archive) for name, archive in data_set.archives.items()}
        write_text(data_set, paths, text, stamp, say)
        archives.remember(data_set.archives.values())
    command = [str(text), str(output), "--source", data_set.source, "--target", data_set.target]
    command += ["--vocabulary", str(args.vocabulary), "--workers", str(args.workers)]
    command += ["--lowercase"] if data_set.lowercase else []
    for option in ("longest", "ratio", "sample"):
        value = getattr(data_set, option)
        command += [] if value is None else [f"--{option}", str(value)]
    binarise.main(command)


def check_disk(work: Path, megabytes: int) -> None:
    """Raise ValueError if the disk has too little room for what is not there yet."""
    folder = next(parent for parent in (work, *work.absolute().parents) if parent.exists())
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) // 10**6
    free = shutil.disk_usage(folder).free // 10**6
    if free < megabytes - there:
        raise ValueError(
            f"the disk of {folder} has {free} MB free and {megabytes - there} MB are needed; --work chooses another"
        )


def write_text(
    data_set: DataSet, paths: dict[str, Path], text: Path, stamp: dict[str, Any], say: Callable[[str], None]
) -> None:
    say(f"cleaning text into {text}")
    with written_once(text, TEXT_STAMP, stamp) as folder:
        languages = (data_set.source, data_set.target)
        counts = write_splits(folder, languages, data_set.pairs(data_set, paths))
        if data_set.test_lines is not None and counts["test"] != data_set.test_lines:
            raise ValueError(
                f"the archives hold {counts['test']} test sentences, and the test set has {data_set.test_lines}: "
                "they are other archives than expected"
            )
    say("sentence pairs: " + ", ".join(f"{split} {count:,}" for split, count in counts.items()))


def prepare_multi30k(prog: str, options: Sequence[str]) -> None:
    """Six gzip files → binarised data."""
    parser = OptionParser(prog=prog, description=f"Multi30k. Licence: {MULTI30K_LICENCE}.", allow_abbrev=False)
    parser.add_argument("--raw", type=Path, metavar="DIR", help="holds the six files; else they are downloaded")
    parser.add_argument("--output", type=Path, metavar="DIR", default=RUNS / "multi30k" / "data")
    parser.add_argument("--source", default="en", help="language to translate from: en, de, fr or cs")
    parser.add_argument("--target", default="de")
    parser.add_argument("--vocabulary", type=positive, default=4000, help="sentencepiece pieces")
    parser.add_argument("--lowercase", action="store_true")
    args = parser.parse(options)

    def say(message: str) -> None:
        print(f"{prog}: {message}", flush=True)

    if args.raw is not None and not args.raw.is_dir():
        raise ValueError(f"--raw is {args.raw}, which is not a folder")
    say(f"Multi30k task 1, 29,000 sentence pairs; licence: {MULTI30K_LICENCE}")
    came = f"from {args.raw}" if args.raw else f"downloaded to {RUNS / 'multi30k' / 'download'}, 1.3 MB"
    say(f"six files {came}; 30 MB of disk for all")
    archives = ArchiveFolder(None, RUNS / "multi30k", say)
    names = {}
    with tempfile.TemporaryDirectory() as plain:
        for split, name in MULTI30K_FILES.items():
            for language in (args.source, args.target):
                file = f"{name}.{language}"
                text = Path(plain) / f"{split}.{language}"
                if args.raw is None:
                    given = archives.get(Archive(f"{MULTI30K_ADDRESS}/{file}.gz"))
                elif (args.raw / f"{file}.gz").is_file():
                    given = args.raw / f"{file}.gz"
                elif (args.raw / file).is_file():
                    given = args.raw / file
                else:
                    raise ValueError(f"{args.raw / file}.gz is missing; it is {MULTI30K_ADDRESS}/{file}.gz")
                if given.suffix == ".gz":
                    unzip(given, text)
                else:
                    shutil.copyfile(given, text)
                names[text.name] = given
        command = [plain, str(args.output), "--source", args.source, "--target", args.target]
        command += ["--vocabulary", str(args.vocabulary), *(["--lowercase"] if args.lowercase else [])]
        binarise.main(command, names)


def unzip(path: Path, text: Path) -> None:
    try:
        with gzip.open(path) as source, text.open("wb") as target:
            shutil.copyfileobj(source, target)
    except DAMAGED as error:
        raise ValueError(f"{path} is truncated or no gzip file") from error


if __name__ == "__main__":
    main(sys.argv[1:])

"""Turn a public data set into binarised data for training. The scripts scripts/prepare_*.sh run this.

    python -m scripts.data.prepare iwslt14|wmt17|multi30k [options]

The stages are: download the archives or take them from a folder, check them, clean their text, and binarise it. Each
stage runs once. An interrupted stage starts again from its beginning.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from fairseq_ats.cli.arguments import positive
from fairseq_ats.data.binarise import STAMP, Binarisation, binarise
from fairseq_ats.files import check_ours, made_once, stamp_of
from scripts.data.archives import DAMAGED, Archive, ArchiveFolder
from scripts.data.data_sets import IWSLT14, MULTI30K_ADDRESS, MULTI30K_FILES, MULTI30K_LICENCE, WMT17, DataSet
from scripts.data.parallel_text import write_splits

RUNS = Path(__file__).resolve().parents[2] / "runs"
TEXT_STAMP = "text.json"


class OptionParser(argparse.ArgumentParser):
    """A parser that reports in one line what is wrong with the options and which values are allowed."""

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
    """Prepare a data set. After a failure, exit with a message of one line."""
    commands: dict[str, Callable[[str, Sequence[str]], None]] = {
        "iwslt14": lambda prog, options: prepare(IWSLT14, prog, options),
        "wmt17": lambda prog, options: prepare(WMT17, prog, options),
        "multi30k": prepare_multi30k,
    }
    if not arguments or arguments[0] not in commands:
        sys.exit(f"usage: prepare {'|'.join(commands)} [options]")
    prog = f"prepare_{arguments[0]}"
    # By default the signal ends the process at once and leaves half-written files behind.
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
    """Turn archives into raw text, and raw text into binarised data.

    Raises:
        ValueError: an option is invalid, an archive or its text is not as expected, or the disk has too little room.
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
    text = work / "text"
    check_ours(text, TEXT_STAMP)
    check_ours(output, STAMP)
    say = partial(_say, prog)
    say(data_set.title)
    say(f"licence: {data_set.licence}")
    if args.archives is not None:
        say(f"archives from {args.archives}: {', '.join(archive.name for archive in data_set.archives.values())}")
    else:
        say(f"downloads {data_set.download} MB to {work / 'download'}, as far as they are not there:")
        for archive in data_set.archives.values():
            say(f"  {archive.address}")
    say(f"text in {text}, data in {output}; at most {data_set.disk} MB of disk, archives included")

    archives = ArchiveFolder(args.archives, work / "download", say)
    recorded = stamp_of(text, TEXT_STAMP)
    stamp = {name: archives.identity(archive, recorded.get(name)) for name, archive in data_set.archives.items()}
    if recorded != stamp or not (output / STAMP).is_file():
        check_disk(work, data_set.disk)
    if recorded != stamp:
        paths = {name: archives.get(archive) for name, archive in data_set.archives.items()}
        stamp = {name: archives.identity(archive) for name, archive in data_set.archives.items()}
        write_text(data_set, paths, text, stamp, say)
    how = Binarisation(
        data_set.source,
        data_set.target,
        args.vocabulary,
        data_set.lowercase,
        data_set.longest,
        data_set.ratio,
        data_set.sample,
    )
    binarise(text, output, how, say, args.workers)


def check_disk(work: Path, megabytes: int) -> None:
    """Check that the disk has enough room for the files that are still missing.

    Raises:
        ValueError: the disk has too little room.
    """
    folder = next(parent for parent in (work, *work.absolute().parents) if parent.exists())
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) // 10**6
    free = shutil.disk_usage(folder).free // 10**6
    if free < megabytes - there:
        raise ValueError(
            f"the disk of {folder} has {free} MB free and {megabytes - there} MB are needed; --work chooses another"
        )


def write_text(
    data_set: DataSet,
    paths: dict[str, Path],
    text: Path,
    stamp: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write the raw text of a data set from its archives to the folder ``text``.

    Raises:
        ValueError: an archive is damaged or has unexpected contents.
    """
    say(f"cleaning text into {text}")
    with made_once(text, TEXT_STAMP, stamp) as folder:
        languages = (data_set.source, data_set.target)
        counts = write_splits(folder, languages, data_set.pairs(data_set, paths))
        if data_set.test_lines is not None and counts["test"] != data_set.test_lines:
            raise ValueError(
                f"the archives hold {counts['test']} test sentences, and the test set has {data_set.test_lines}: "
                "they are other archives than expected"
            )
    say("sentence pairs: " + ", ".join(f"{split} {count:,}" for split, count in counts.items()))


def prepare_multi30k(prog: str, options: Sequence[str]) -> None:
    """Turn Multi30k's six gzip files into binarised data.

    Raises:
        ValueError: an option is invalid, or a file is missing or not as expected.
    """
    parser = OptionParser(prog=prog, description=f"Multi30k. Licence: {MULTI30K_LICENCE}.", allow_abbrev=False)
    parser.add_argument("--raw", type=Path, metavar="DIR", help="holds the six files; else they are downloaded")
    parser.add_argument("--output", type=Path, metavar="DIR", default=RUNS / "multi30k" / "data")
    parser.add_argument("--source", default="en", help="language to translate from: en, de, fr or cs")
    parser.add_argument("--target", default="de")
    parser.add_argument("--vocabulary", type=positive, default=4000, help="sentencepiece pieces")
    parser.add_argument("--lowercase", action="store_true")
    args = parser.parse(options)
    if args.raw is not None and not args.raw.is_dir():
        raise ValueError(f"--raw is {args.raw}, which is not a folder")
    download, say = RUNS / "multi30k" / "download", partial(_say, prog)
    say(f"Multi30k task 1, 29,000 sentence pairs; licence: {MULTI30K_LICENCE}")
    say(f"six files {f'from {args.raw}' if args.raw else f'downloaded to {download}, 1.3 MB'}; 30 MB of disk for all")
    archives = ArchiveFolder(args.raw, download, say)
    names = {}
    with tempfile.TemporaryDirectory() as plain:
        for split, name in MULTI30K_FILES.items():
            for language in (args.source, args.target):
                archive = Archive(f"{MULTI30K_ADDRESS}/{name}.{language}.gz")
                text = Path(plain) / f"{split}.{language}"
                unzipped = archives.path(archive).with_suffix("")
                if args.raw is not None and unzipped.is_file() and not archives.path(archive).is_file():
                    shutil.copyfile(unzipped, text)
                    names[text.name] = unzipped
                else:
                    names[text.name] = archives.get(archive)
                    unzip(names[text.name], text)
        how = Binarisation(args.source, args.target, args.vocabulary, args.lowercase)
        binarise(Path(plain), args.output, how, say, names=names)


def unzip(path: Path, text: Path) -> None:
    """Unzip the gzip file ``path`` to ``text``.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with gzip.open(path) as source, text.open("wb") as target:
            shutil.copyfileobj(source, target)
    except DAMAGED as error:
        raise ValueError(f"{path} is truncated or no gzip file") from error


def _say(prog: str, message: str) -> None:
    print(f"{prog}: {message}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

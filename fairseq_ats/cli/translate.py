"""Translate text, a line at a time, with any network of a run.

    fairseq-ats translate RUN/checkpoint_best_core.pt --level core < text.en > text.de
    fairseq-ats translate FOLDER --input text.en --output text.de       # FOLDER was written by fairseq-ats convert

Every line of input gives one line of output, in order.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TextIO

from tqdm import tqdm

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.files import written_whole
from fairseq_ats.inference.engine import DEVICES, Machine, Search
from fairseq_ats.inference.translator import BUFFER_SIZE, Translator

PROGRESS_AFTER = 5  # seconds


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats-translate") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    for name in ("fairseq", "fairseq_ats"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with parser.errors_in_a_sentence():
        if args.input is not None and not args.input.is_file():
            raise ValueError(f"--input is {args.input}, which is not a file")
        if not Path(args.model).is_dir() and find_spec("fairseq") is not None:
            from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
        try:
            _run(args)
        except BrokenPipeError:
            # The reader of the output has gone, as head does. Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__)
    parser.add_argument("model", metavar="MODEL", help="a checkpoint, or a folder that fairseq-ats convert wrote")
    parser.add_argument(
        "--level",
        metavar="LEVEL",
        help="core, super, level2, ..., or a number (default: the highest of a checkpoint); perturbed: what "
        "--scheme prune leaves",
    )
    parser.add_argument("--input", type=Path, metavar="FILE", help="text in UTF-8 (default: stdin)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="appears when everything is translated (default: stdout)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder with the dictionaries (default: as in training)")
    parser.add_argument("--sentencepiece-model", metavar="FILE", help="(default: sentencepiece.model in the data)")
    parser.add_argument(
        "--beam", type=positive, metavar="N", help=f"beam width (default: {Search.beam}, or as the folder says)"
    )
    parser.add_argument(
        "--max-len-a",
        type=float,
        metavar="A",
        help="a translation has at most A * length of the source + B pieces, and longer lines are translated in parts "
        f"(default: {Search.max_len_a:g}, or as the folder says)",
    )
    parser.add_argument(
        "--max-len-b",
        type=positive,
        metavar="B",
        help=f"see --max-len-a (default: {Search.max_len_b}, or as the folder says)",
    )
    parser.add_argument(
        "--lenpen",
        type=float,
        metavar="P",
        help=f"length penalty: above 1 favours longer translations (default: {Search.length_penalty:g})",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=Machine.batch_size,
        metavar="N",
        help="sentences in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--buffer-size",
        type=positive,
        metavar="N",
        help=f"lines to read before translating them (default: {BUFFER_SIZE}, and 1 from a terminal)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads of each worker (default: the engine's choice)"
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="batches translated at once, CTranslate2 only (default: 1)",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: cuda where there is one)")
    parser.add_argument("--no-shortlist", action="store_true", help="do not use the folder's shortlist, if it has one")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _run(args: argparse.Namespace) -> None:
    with ExitStack() as files:
        if args.output is None:
            output = _open_stream(sys.stdout, "stdout is closed; --output FILE says where the translation goes")
        else:
            output = files.enter_context(open(files.enter_context(written_whole(str(args.output))), "wb"))
        if args.input is None:
            source = _open_stream(sys.stdin, "stdin is closed; --input FILE says where the text is")
        else:
            source = files.enter_context(open(args.input, "rb"))
        translator = Translator(
            args.model,
            args.level,
            data=args.data,
            sentencepiece_model=args.sentencepiece_model,
            beam=args.beam,
            max_len_a=args.max_len_a,
            max_len_b=args.max_len_b,
            length_penalty=args.lenpen,
            batch_size=args.batch_size,
            threads=args.threads,
            workers=args.workers,
            device=args.device,
            shortlist=not args.no_shortlist,
        )
        buffer_size = args.buffer_size or (1 if source.isatty() else BUFFER_SIZE)
        progress = tqdm(
            translator.translate(_lines(source), buffer_size),
            total=None if args.input is None else _count_lines(args.input),
            unit=" lines",
            delay=PROGRESS_AFTER,
            mininterval=1 if sys.stderr.isatty() else 30,  # a log file gets a line for each
            disable=args.quiet or source.isatty() or output.isatty(),  # there the lines themselves show it
            file=sys.stderr,
        )
        for number, translation in enumerate(progress, start=1):
            output.write(translation.encode("utf-8") + b"\n")
            if number % buffer_size == 0:
                output.flush()
        output.flush()


def _open_stream(stream: TextIO | None, problem: str) -> BinaryIO:
    """Return a standard stream for bytes; Python has None for a closed one.

    Raises:
        ValueError: it is closed.
    """
    if stream is None:
        raise ValueError(problem)
    return stream.buffer


def _lines(source: BinaryIO) -> Iterator[str]:
    """Yield the lines, which end at newlines only; bytes that are not UTF-8 become unknown characters."""
    for line in source:
        yield line.decode("utf-8", "replace")


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)

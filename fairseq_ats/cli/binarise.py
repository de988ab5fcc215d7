"""Raw parallel text → sentencepiece model → fairseq's binarised data.

    fairseq-ats binarise RAW DATA --source en --target de --vocabulary 8000

RAW holds train, valid and test as ``SPLIT.LANGUAGE``, one sentence a line. DATA gets fairseq's binarised data with one
dictionary for both languages, ``sentencepiece.model``, and the raw references ``test.LANGUAGE``. It is written whole or
not at all. A call with the same RAW and options returns at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.data.binarise import Binarisation, binarise


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats binarise") -> None:
    """Run the command."""
    parser = _parser(prog)
    options = vars(parser.parse_args(arguments))
    raw, output, workers = (options.pop(name) for name in ("raw", "output", "workers"))
    with parser.errors_in_a_sentence():
        binarise(raw, output, Binarisation(**options), lambda text: print(f"binarise: {text}", flush=True), workers)


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__)
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of the raw text")
    parser.add_argument("output", type=Path, metavar="DATA", help="folder to write")
    parser.add_argument("--source", required=True, metavar="LANGUAGE", help="language to translate from")
    parser.add_argument("--target", required=True, metavar="LANGUAGE", help="language to translate to")
    parser.add_argument(
        "--vocabulary",
        type=positive,
        default=Binarisation.vocabulary,
        metavar="N",
        help="number of sentencepiece pieces, for both languages together (default: %(default)s)",
    )
    parser.add_argument("--lowercase", action="store_true", help="lower-case all text, including the references")
    parser.add_argument(
        "--longest",
        type=positive,
        metavar="N",
        help="leave out pairs of train and valid with more than N pieces on a side; needs --ratio",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        metavar="R",
        help="leave out pairs of train and valid with more than R times the pieces on one side; needs --longest",
    )
    parser.add_argument(
        "--sample", type=positive, metavar="N", help="learn the pieces from N lines of each language (default: all)"
    )
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="processes (default: %(default)s)")
    return parser

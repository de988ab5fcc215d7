"""Translate training data with a trained network, for a smaller network to learn from.

    fairseq-ats distil DATA MODEL OUTPUT [--level super] [--beam 5]

DATA is binarised data. MODEL is a checkpoint, or a folder that ``fairseq-ats convert`` wrote (CTranslate2 is several
times as fast as a checkpoint). OUTPUT gets a copy of DATA with the translations as targets of the training split: use
it as ``--core-data``, or as DATA of a training. It is written whole or not at all. A second call with the same DATA,
MODEL and options returns at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.files import sha256_of
from fairseq_ats.inference.engine import DEVICES


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats distil") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
    from fairseq_ats.data.folder import DataFolder
    from fairseq_ats.inference.distil import check_dictionaries, distil
    from fairseq_ats.inference.translator import Translator

    silence_libraries()

    def progress(sentences: Iterator[Any], count: int) -> Iterator[Any]:
        seldom = 1 if sys.stderr.isatty() else 30  # a log file gets a line for each
        return iter(tqdm(sentences, total=count, unit=" sentences", mininterval=seldom, file=sys.stderr))

    with parser.errors_in_a_sentence():
        options: dict[str, Any] = {} if args.model.is_dir() else {"data": args.data}
        translator = Translator(
            args.model,
            args.level,
            beam=args.beam,
            batch_size=args.batch_size,
            threads=args.threads,
            workers=args.workers,
            device=args.device,
            **options,
        )
        source, target = translator.languages
        folder = DataFolder.find(args.data, {"source_lang": source, "target_lang": target})
        if args.model.is_dir():
            check_dictionaries(args.model, folder)
        made_of = {"model": _sum_of(args.model), "level": args.level, "beam": args.beam}
        written = distil(folder, translator, made_of, args.output, progress)
        print(f"distil: {'wrote' if written else 'up to date:'} {args.output}")


def _sum_of(model: Path) -> str:
    """Return the SHA-256 of a checkpoint, or of the sums of a folder's files."""
    return sha256_of(model / "SHA256SUMS" if model.is_dir() else model)


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of binarised data")
    parser.add_argument("model", type=Path, metavar="MODEL", help="checkpoint or converted folder to translate with")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder to write")
    parser.add_argument("--level", metavar="NETWORK", help="of a checkpoint: core, super, ... (default: the highest)")
    parser.add_argument("--beam", type=positive, default=5, metavar="N", help="beam width (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="sentences in a batch (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="batches at once, CTranslate2 only (default: 1)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: cuda where there is one)")
    return parser

"""Images → a folder of prepared images, for the task ``image_classification_with_partitioned_model``.

    fairseq-ats images digits DATA
    fairseq-ats images cifar-10-binary.tar.gz DATA
    fairseq-ats images FOLDER DATA

``digits`` is in scikit-learn: 1,797 images of 8 × 8 pixels. The archive is CIFAR-10's binary version
(https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz); its SHA-256 is checked. FOLDER holds train/CLASS/NAME.png (or
jpg), test/ and, if it likes, valid/. DATA is written whole or not at all, and holds arrays that cannot run code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.data.image_sources import prepare


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats images") -> None:
    """Run the command."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("source", metavar="SOURCE", help="digits, CIFAR-10's binary archive, or a folder of images")
    parser.add_argument("output", type=Path, metavar="DATA", help="folder to write")
    parser.add_argument(
        "--valid",
        type=positive,
        metavar="N",
        help="training images to hold out for validation, the same number of each class (default: 5,000 of CIFAR-10, "
        "a tenth otherwise)",
    )
    parser.add_argument(
        "--size", type=positive, metavar="N", help="of a folder: scale the shorter side to N pixels, cut out the centre"
    )
    args = parser.parse_args(arguments)
    with parser.errors_in_a_sentence():
        prepare(args.source, args.output, args.valid, args.size, lambda text: print(f"images: {text}", flush=True))

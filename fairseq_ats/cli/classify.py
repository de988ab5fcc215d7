"""Classify image files with a network of a checkpoint, or with a converted one.

    fairseq-ats classify RUN/checkpoint_best_core.pt --level core cat.png dog.jpg
    fairseq-ats classify CONVERTED cat.png

Prints a line for each file: the file, the most probable class, and its probability, with tabs between them. An image of
another size than the training's is scaled to cover it, and its centre is cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
from fairseq_ats.cli.arguments import CommandParser
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.data.image_sources import read_image
from fairseq_ats.inference.classifier import Classifier

BATCH = 64


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats classify") -> None:
    """Run the command."""
    parser = CommandParser(prog, __doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="checkpoint, or folder of a converted network")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="images: png or jpg")
    parser.add_argument("--level", metavar="LEVEL", help="of a checkpoint: core, super, ... (default: the highest)")
    args = parser.parse_args(arguments)
    silence_libraries()
    with parser.errors_in_a_sentence():
        classifier = Classifier.open(args.model, args.level)
        for start in range(0, len(args.files), BATCH):
            files = args.files[start : start + BATCH]
            images = np.stack([read_image(file, classifier.data) for file in files])
            best = classifier.probabilities(images).max(-1)
            for file, value, number in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
                print(f"{file}\t{classifier.data.classes[number]}\t{value:.4f}")

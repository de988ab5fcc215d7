"""Convert one network of a checkpoint, verify the result against its source, and only then keep it."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.convert.conversion import convert
from fairseq_ats.convert.formats import ctranslate2, onnx
from fairseq_ats.convert.formats.core import CoreCheckpoint
from fairseq_ats.convert.formats.ctranslate2 import CTranslate2Model
from fairseq_ats.convert.formats.fairseq import StockCheckpoint
from fairseq_ats.convert.formats.huggingface import NOT_MARIAN, HuggingFaceModel
from fairseq_ats.convert.formats.images import convert_images, is_of_images
from fairseq_ats.convert.formats.onnx import OnnxModel
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.verification import VerificationError
from fairseq_ats.inference.engine import Search

FORMATS: dict[str, type[StockCheckpoint | CoreCheckpoint | CTranslate2Model | OnnxModel | HuggingFaceModel]] = {
    "fairseq": StockCheckpoint,
    "core": CoreCheckpoint,
    "ctranslate2": CTranslate2Model,
    "onnx": OnnxModel,
    "huggingface": HuggingFaceModel,
}

# Options that some formats have.
OF_A_FORMAT = ("dense", "keep_optimizer_state", "quantization", "shortlist")

EPILOG = """formats:
  fairseq      a checkpoint that plain fairseq-generate loads without this plugin
  core         a checkpoint of this plugin that holds the core alone, as --max-level 1 would have trained it
  ctranslate2  a folder that CTranslate2 reads, with everything that translating text needs
  onnx         the same for ONNX Runtime; keeps the layers of a low-rank network thin
  huggingface  a folder that Hugging Face's transformers loads with from_pretrained
formats of networks that classify images:
  torch        a folder with a state dict, at full width one of torchvision's resnet18
  onnx         a folder with a graph for ONNX Runtime; fairseq-ats classify reads both
"""


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats-convert") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    logging.basicConfig(format=f"{prog}: %(message)s", level=logging.WARNING, stream=sys.stdout, force=True)
    logging.getLogger("fairseq_ats.convert").setLevel(logging.INFO)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns of a missing torchvision
    with parser.errors_in_a_sentence(VerificationError):
        if args.beam is not None and args.verify_on is None:
            raise ValueError(
                f"--beam is {args.beam}, the beam width of --verify-on, which is not given; --tune-on chooses the beam "
                "that a folder keeps, and fairseq-ats translate has a --beam of its own"
            )
        if is_of_images(args.checkpoint):
            _refuse(args, ("data", "sentencepiece_model", "verify_on", "tune_on", *OF_A_FORMAT))
            convert_images(Checkpoint.open(args.checkpoint), args.level, args.to, args.output, args.overwrite)
            return
        convert(
            args.checkpoint,
            args.level,
            _output_format_of(args),
            args.output,
            data=args.data,
            sentencepiece_model=args.sentencepiece_model,
            verify_on=args.verify_on,
            beam=args.beam or Search.beam,
            overwrite=args.overwrite,
            tune_on=args.tune_on,
        )


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__, epilog=EPILOG)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="written by fairseq-train with this plugin's task"
    )
    parser.add_argument(
        "--level",
        required=True,
        metavar="LEVEL",
        help="the network: core, super, level2, ..., or its number: 1 is the core; perturbed: what --scheme prune "
        "leaves of the highest",
    )
    allowed = [*FORMATS, "torch"]
    parser.add_argument("--to", type=_format, choices=allowed, required=True, metavar="FORMAT", help=", ".join(allowed))
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="file or folder to write; core: safetensors if it ends in .safetensors",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the dictionaries (default: as in training)"
    )
    parser.add_argument(
        "--sentencepiece-model", type=Path, metavar="FILE", help="(default: sentencepiece.model in the data)"
    )
    parser.add_argument(
        "--verify-on",
        type=Path,
        metavar="FILE",
        help="also compare the best hypotheses for this text: source language, one sentence a line; without a "
        "sentencepiece model, tokens with spaces between them",
    )
    parser.add_argument(
        "--beam", type=positive, metavar="N", help=f"beam width of --verify-on (default: {Search.beam})"
    )
    parser.add_argument(
        "--tune-on",
        metavar="SPLIT",
        help="ctranslate2, onnx: choose the beam and the length penalty on this split of the binarised data, such as "
        "valid; the folder keeps them",
    )
    parser.add_argument(
        "--shortlist",
        metavar="FROM",
        help="ctranslate2: compute the candidates of a sentence's pieces only, not the whole vocabulary; FROM is a "
        "split of the binarised data, such as train, or the vmap.txt of another folder",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        default=None,
        help="fairseq, ctranslate2, huggingface: turn a low-rank network into a dense one",
    )
    parser.add_argument(
        "--keep-optimizer-state",
        action="store_true",
        default=None,
        help="core: keep the optimizer state of the core, so that the file can resume with --max-level 1",
    )
    parser.add_argument(
        "--quantization",
        choices=list(ctranslate2.TOLERANCES),
        metavar="TYPE",
        help="type of the stored weights (default: float32); "
        f"ctranslate2: {', '.join(ctranslate2.TOLERANCES)}; onnx: {', '.join(onnx.TOLERANCES)}",
    )
    return parser


def _format(name: str) -> str:
    """Return the name of a format; refuse one that people ask for, with the reason."""
    if name == "marian":
        raise argparse.ArgumentTypeError(f"it is marian; {NOT_MARIAN}")
    return name


def _output_format_of(args: argparse.Namespace) -> OutputFormat:
    """Return the format with its options.

    Raises:
        ValueError: the format does not have an option.
    """
    if args.to not in FORMATS:
        raise ValueError(
            f"--to is {args.to}, which is for networks that classify images; allowed: {', '.join(FORMATS)}"
        )
    made = FORMATS[args.to]
    known = {f.name for f in dataclasses.fields(made)}
    _refuse(args, [name for name in OF_A_FORMAT if name not in known])
    return made(**{name: getattr(args, name) for name in known if getattr(args, name) is not None})


def _refuse(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ValueError if one of these options is given."""
    given = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names) if getattr(args, name) is not None)
    if given:
        raise ValueError(f"{given} has no meaning with --to {args.to}")

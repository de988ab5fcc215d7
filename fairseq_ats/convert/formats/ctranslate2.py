"""Write a folder for CTranslate2, a fast inference engine: ``--to ctranslate2``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from torch import Tensor

from fairseq_ats.convert.folder_contents import complete_folder, write_dictionaries
from fairseq_ats.convert.folding import check_dense, dense_cost, side_sizes
from fairseq_ats.convert.formats.fairseq import stock_checkpoint
from fairseq_ats.convert.held_out import HeldOut, compare_shortlist
from fairseq_ats.convert.limits import different_sides, unsupported_options
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.shortlist import check_shortlist, write_shortlist
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import (
    check_difference,
    check_same_beams,
    engine_of,
    log_probabilities,
    numbered,
    random_pairs,
)
from fairseq_ats.host import safetensors_file
from fairseq_ats.inference.ctranslate2_engine import SHORTLIST_FILE, CTranslate2Engine
from fairseq_ats.inference.engine import Machine, Search

# Types of stored weights, under CTranslate2's names (ctranslate2/specs/model_spec.py, ACCEPTED_MODEL_TYPES), and the
# allowed difference of log-probabilities in nats. For float32, where only the order of sums differs, the limit is for
# the largest difference; for types that round the weights, for the mean difference. Measured with 3+3 layers of width
# 128: float32 5e-6, float16 0.001, bfloat16 0.01, integers 0.03 (AVX-512 VNNI). Measured with 2+2 layers of width 32 on
# a CPU with only AVX2: int8 0.18. Rounding can hide a wrong weight, so the verification also compares every network
# with its source in float32.
EXACT = "float32"
TOLERANCES = {
    "float32": 1e-4,
    "float16": 0.02,
    "bfloat16": 0.1,
    "int16": 0.08,
    "int8": 0.3,
    "int8_float32": 0.3,
    "int8_float16": 0.3,
    "int8_bfloat16": 0.3,
}

# ctranslate2/converters/fairseq.py, _SUPPORTED_ACTIVATIONS. The converter checks some options itself, with its own
# messages, and would silently ignore others.
ACTIVATIONS = ("gelu", "gelu_accurate", "gelu_fast", "relu", "swish")


@dataclass(frozen=True)
class CTranslate2Model(OutputFormat):
    """The format of ``--to ctranslate2``.

    Args:
        dense: allow a low-rank network below the super-network. Its thin layers become dense.
        quantization: type of the stored weights, a key of ``TOLERANCES``.
        shortlist: what to make the shortlist from, see :func:`~fairseq_ats.convert.shortlist.check_shortlist`.
    """

    dense: bool = False
    quantization: str = EXACT
    shortlist: str | None = None

    is_folder: ClassVar[bool] = True
    keeps_beam: ClassVar[bool] = True
    packages: ClassVar[Sequence[str]] = ("ctranslate2",)

    def check(self, source: SourceNetwork) -> None:
        check_dense(source, self.dense, "ctranslate2")
        problems = different_sides(source.model.cfg, "attention_heads", "attention-heads")
        problems += unsupported_options(source.model.cfg, ACTIVATIONS)
        if problems:
            raise ValueError(f"CTranslate2 cannot hold this model: {'; '.join(problems)}. --to onnx can hold more")
        if self.shortlist is not None:
            check_shortlist(self.shortlist, source)
            HeldOut.read(source)

    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        yield from dense_cost(source)
        _write_network(source, path, self.quantization)
        if self.shortlist is not None:
            yield from write_shortlist(self.shortlist, source, path / SHORTLIST_FILE)
        complete_folder(source, path, "ctranslate2", weights=self.quantization, package="ctranslate2")

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        if self.quantization != EXACT:
            # Compare in float32 first: rounding can hide a wrong weight.
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                _write_network(source, Path(scratch), EXACT)
                for line in _compare(source, Path(scratch), sentences, beam, EXACT):
                    yield f"before rounding, {line}"
        yield from _compare(source, path, sentences, beam, self.quantization)
        if self.shortlist is not None:
            yield from compare_shortlist(path, HeldOut.read(source))


def _write_network(source: SourceNetwork, folder: Path, quantization: str) -> None:
    """Write CTranslate2's own files into ``folder``."""
    from ctranslate2.converters import FairseqConverter  # optional package

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        checkpoint = Path(scratch) / "stock.pt"
        safetensors_file.save(_checkpoint_for_ctranslate2(source), checkpoint)
        write_dictionaries(source, Path(scratch))
        languages = (source.task.cfg.source_lang, source.task.cfg.target_lang)
        converter = FairseqConverter(str(checkpoint), scratch, *languages)
        converter.convert(str(folder), quantization=quantization, force=True)


def _compare(
    source: SourceNetwork, folder: Path, sentences: Sequence[Sequence[str]], beam: int, quantization: str
) -> Iterator[str]:
    """Do as :meth:`CTranslate2Model.verify` does, for a folder with weights of the type ``quantization``."""
    exact = quantization == EXACT
    machine = Machine(threads=torch.get_num_threads(), device="cpu")
    engine = CTranslate2Engine(folder, source.model.max_positions(), Search(beam=beam), machine)
    pairs = random_pairs(source)
    scored = engine.translator.score_batch([source for source, _ in pairs], [target for _, target in pairs])
    yield check_difference(
        "log-probabilities",
        torch.cat(_of_targets(source, pairs)),
        torch.tensor([value for result in scored for value in result.log_probs]),
        TOLERANCES[quantization],
        on_average=not exact,
    )
    if sentences:
        expected = engine_of(source.model, source.task, beam).best(sentences)
        longest = engine.longest(engine.max_source_pieces)
        yield check_same_beams(expected, engine.best(sentences), longest, exact=exact)


def _checkpoint_for_ctranslate2(source: SourceNetwork) -> dict[str, Any]:
    """Return the stock checkpoint with its options as the converter needs them: one flat, complete namespace.

    The converter sets attributes of ``args``. It also looks up options that a configuration of ``fairseq-hydra-train``
    may leave to the arch (ctranslate2/converters/fairseq.py, ``_load``). It reads the file with PyTorch's weights-only
    loader; releases before 4.8 read it without that loader. Either is safe, because the converter reads only a file
    that this module has just written.
    """
    stock = stock_checkpoint(source)
    args = argparse.Namespace(**stock["cfg"]["model"])
    arch = args.arch if "arch" in args else args._name
    ARCH_CONFIG_REGISTRY[arch](args)
    args.arch, args.task = arch, stock["cfg"]["task"]["_name"]
    for option in ("alignment_layer", "alignment_heads"):
        if option in args:
            delattr(args, option)  # an option of transformer_align; without that layer CTranslate2 ends the process
    for side, sizes in side_sizes(stock["model"]).items():
        if side in args:
            delattr(args, side)  # the nested form of the options that the next lines set
        options = vars(getattr(source.model.cfg, side)) | sizes
        for option, value in options.items():
            setattr(args, f"{side}_{option}", value)
    return stock | {"args": args}


def _of_targets(source: SourceNetwork, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Tensor]:
    """Return, for each pair, the source network's log-probabilities of the target tokens and of end-of-sentence.

    Each tensor has the shape (length + 1,) and is in nats.
    """
    every = log_probabilities(source.model, source.task, pairs)
    targets = [numbered(target, source.task.target_dictionary) for _, target in pairs]
    return [of.gather(1, target[:, None])[:, 0] for of, target in zip(every, targets, strict=True)]

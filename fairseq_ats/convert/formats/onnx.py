"""Write a folder for ONNX Runtime: ``--to onnx``. The thin layers of a low-rank core stay thin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.export import Dim

from fairseq_ats.convert.folder_contents import complete_folder
from fairseq_ats.convert.formats.onnx_graphs import DecoderStepGraph, EncoderGraph, example_inputs, traced_attention
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import (
    check_difference,
    check_same_beams,
    engine_of,
    log_probabilities,
    random_pairs,
)
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.engine import Machine, Search
from fairseq_ats.inference.onnx_engine import CANDIDATES_FILE, DECODER_FILE, ENCODER_FILE, WEIGHTS_FILE, OnnxEngine
from fairseq_ats.inference.onnx_transformer import OnnxTransformer

# The types of stored weights, with the allowed difference of log-probabilities in nats: the largest for float32, where
# only the order of sums differs; the mean for rounded weights. Measured: float32 1e-5 (3+3 layers of width 128), int8
# 0.01 to 0.02 (4+4 layers of width 128, 6+6 layers of width 512).
EXACT = "float32"
TOLERANCES = {"float32": 1e-4, "int8": 0.1}


@dataclass(frozen=True)
class OnnxModel(OutputFormat):
    """The format of ``--to onnx``.

    See :mod:`fairseq_ats.inference.onnx_engine` for the inputs and outputs of the graphs.

    Args:
        quantization: type of the stored weights, a key of ``TOLERANCES``.
    """

    quantization: str = EXACT

    is_folder: ClassVar[bool] = True
    keeps_beam: ClassVar[bool] = True
    packages: ClassVar[Sequence[str]] = ("onnx", "onnxscript", "onnxruntime")

    def check(self, source: SourceNetwork) -> None:
        if self.quantization not in TOLERANCES:
            raise ValueError(f"--quantization is {self.quantization}; allowed with --to onnx: {', '.join(TOLERANCES)}")
        cfg = source.model.cfg
        problems = [
            f"--{switch.replace('_', '-')} is given"
            for switch in ("adaptive_softmax_cutoff", "no_cross_attention", "cross_self_attention")
            if getattr(cfg, switch)
        ]
        if not source.model.decoder.layers:
            problems.append("--decoder-layers is 0, but a decoder step finds its position in the cache of a layer")
        if problems:
            raise ValueError(f"--to onnx does not know this model: {'; '.join(problems)}. --to fairseq can")

    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        from fairseq_ats.convert.formats.onnx_files import complete, round_weights, share_weights  # optional packages

        with traced_attention(source.model):
            export_graphs(source, path)
        complete(path)
        if self.quantization != EXACT:
            # Compare in float32 first: rounding can hide a wrong weight.
            complete_folder(source, path, "onnx", weights=EXACT, package="onnxruntime")
            yield f"before rounding, {_compare_on_random_input(source, path, EXACT)}"
            round_weights(path)
        share_weights(path)
        complete_folder(source, path, "onnx", weights=self.quantization, package="onnxruntime")
        files = [path / name for name in (ENCODER_FILE, DECODER_FILE, CANDIDATES_FILE, WEIGHTS_FILE)]
        yield "graphs: " + ", ".join(f"{file.name} {file.stat().st_size:,} bytes" for file in files)

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        yield _compare_on_random_input(source, path, self.quantization)
        if sentences:
            machine = Machine(threads=torch.get_num_threads(), device="cpu")
            engine = OnnxEngine(path, DeployedFolder.read(path), Search(beam=beam), machine)
            expected = engine_of(source.model, source.task, beam).best(sentences)
            longest = engine.longest(engine.max_source_pieces)
            exact = self.quantization == EXACT
            yield check_same_beams(expected, engine.best(sentences), longest, exact=exact)


def _compare_on_random_input(source: SourceNetwork, folder: Path, quantization: str) -> str:
    pairs = random_pairs(source)
    expected = torch.cat(log_probabilities(source.model, source.task, pairs))
    found = torch.cat(log_probabilities(OnnxTransformer.from_folder(folder), source.task, pairs))
    return check_difference("logits", expected, found, TOLERANCES[quantization], on_average=quantization != EXACT)


@torch.no_grad()
def export_graphs(source: SourceNetwork, folder: Path) -> None:
    """Export the encoder and one step of the decoder as two graphs, with variable batch size and lengths."""
    model = source.model
    encoder_inputs, step_inputs = example_inputs(model)
    batch, beam, length, past, keys = (Dim(name) for name in ("batch", "beam", "source", "past", "keys"))
    layers = range(len(model.decoder.layers))
    cross, own, longer = (
        [f"{kind}_{what}_{layer}" for layer in layers for what in ("key", "value")]
        for kind in ("cross", "past", "present")
    )
    torch.onnx.export(
        EncoderGraph(model).eval(),
        encoder_inputs,
        folder / ENCODER_FILE,
        input_names=["source"],
        output_names=["padding", *cross],
        dynamic_shapes=({0: batch, 1: length},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    torch.onnx.export(
        DecoderStepGraph(model).eval(),
        step_inputs,
        folder / DECODER_FILE,
        input_names=["token", "padding", "others", *cross, *own],
        output_names=["logits", *longer],
        dynamic_shapes=(
            {0: batch, 1: beam},
            {0: batch, 1: length},
            {0: batch, 1: beam, 2: keys},
            [{0: batch, 2: length}] * len(cross),
            [{0: batch, 2: past}] * len(own),
        ),
        dynamo=True,
        external_data=False,
        verbose=False,
    )

"""Write a folder with two ONNX graphs: ``--to onnx``. The thin layers of a low-rank core stay thin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.export import Dim

from fairseq_ats.convert.folder_contents import complete_folder
from fairseq_ats.convert.formats.onnx_graphs import DecoderStepGraph, EncoderGraph, example_inputs
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import check_same_network
from fairseq_ats.inference.onnx_transformer import DECODER_FILE, ENCODER_FILE, OnnxTransformer

# Nats. Only the order of sums differs. The largest difference that was measured is 1e-5 (3+3 layers of width 128).
TOLERANCE = 1e-4


@dataclass(frozen=True)
class OnnxModel(OutputFormat):
    """The format of ``--to onnx``.

    See :mod:`fairseq_ats.inference.onnx_transformer` for the inputs and outputs of the graphs.
    """

    is_folder: ClassVar[bool] = True
    packages: ClassVar[Sequence[str]] = ("onnx", "onnxscript", "onnxruntime")

    def check(self, source: SourceNetwork) -> None:
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
        export_graphs(source, path)
        complete_folder(source, path, "onnx", weights="float32", package="onnxruntime")
        yield "graphs: " + ", ".join(
            f"{name} {(path / name).stat().st_size:,} bytes" for name in (ENCODER_FILE, DECODER_FILE)
        )

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        converted = OnnxTransformer.from_folder(path)
        yield from check_same_network(source, converted, source.task, sentences, beam, TOLERANCE)


@torch.no_grad()
def export_graphs(source: SourceNetwork, folder: Path) -> None:
    """Export the encoder and one step of the decoder as two graphs, with variable batch size and lengths."""
    model = source.model
    encoder_inputs, step_inputs = example_inputs(model)
    batch, length, past = Dim("batch"), Dim("source"), Dim("past")
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
        input_names=["token", "padding", *cross, *own],
        output_names=["logits", *longer],
        dynamic_shapes=(
            {0: batch},
            {0: batch, 1: length},
            [{0: batch, 2: length}] * len(cross),
            [{0: batch, 2: past}] * len(own),
        ),
        dynamo=True,
        external_data=False,
        verbose=False,
    )

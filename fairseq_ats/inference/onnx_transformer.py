"""Run a Transformer as two ONNX graphs in ONNX Runtime, behind the interface of a fairseq model.

A conversion is verified through this interface. The module :mod:`fairseq_ats.inference.onnx_engine` says what the
graphs are. fairseq's own beam search decodes with them::

    model = OnnxTransformer.from_folder(Path("core.onnx"))
    generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=5)
"""

from __future__ import annotations

from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqEncoderDecoderModel, FairseqIncrementalDecoder
from torch import Tensor

from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.onnx_engine import DECODER_FILE, ENCODER_FILE, open_graph

Tensors = dict[str, Tensor]


class Graph:
    """An ONNX file as a function from named tensors to named tensors, on the CPU."""

    def __init__(self, path: Path) -> None:
        self._session = open_graph(path, torch.get_num_threads())
        self._outputs = [output.name for output in self._session.get_outputs()]
        #: Name of each input → its sizes; a size that may vary is a string.
        self.inputs = {entry.name: entry.shape for entry in self._session.get_inputs()}

    def __call__(self, tensors: Tensors) -> Tensors:
        arrays = {name: tensors[name].numpy() for name in self.inputs}
        results = self._session.run(self._outputs, arrays)
        return {name: torch.from_numpy(array) for name, array in zip(self._outputs, results, strict=True)}


class OnnxEncoder(FairseqEncoder):
    """The encoder's graph as a fairseq encoder; its output is the dictionary of the graph's outputs, by name."""

    def __init__(self, graph: Graph, dictionary: Dictionary, longest: int) -> None:
        super().__init__(dictionary)
        self._graph = graph
        self._longest = longest

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> Tensors:
        return self._graph({"source": src_tokens})

    def reorder_encoder_out(self, encoder_out: Tensors, new_order: Tensor) -> Tensors:
        return {name: value.index_select(0, new_order) for name, value in encoder_out.items()}

    def max_positions(self) -> int:
        return self._longest


class OnnxDecoder(FairseqIncrementalDecoder):
    """The graph of one decoder step as a fairseq decoder; ``incremental_state`` holds the caches, by name."""

    _CACHES = "caches"

    def __init__(self, graph: Graph, dictionary: Dictionary, longest: int) -> None:
        super().__init__(dictionary)
        self._graph = graph
        self._longest = longest

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Tensors,
        incremental_state: dict[str, dict[str, Tensor | None]] | None = None,
    ) -> tuple[Tensor, None]:
        """Return the logits of the next token.

        With ``incremental_state``, return the logits after the last token, (batch, 1, vocabulary), and update the
        caches. Without it, return the logits after every token, (batch, time, vocabulary).

        Args:
            prev_output_tokens: (batch, time); padded on the right or not at all, because a step counts positions and
                does not look for pads.
            encoder_out: the encoder's outputs, by name.
        """
        if incremental_state is None:
            state: dict[str, dict[str, Tensor | None]] = {}
            steps = range(1, prev_output_tokens.shape[1] + 1)
            every = [self(prev_output_tokens[:, :step], encoder_out, state)[0] for step in steps]
            return torch.cat(every, dim=1), None
        caches = self.get_incremental_state(incremental_state, self._CACHES)
        if caches is None:
            caches = self._empty_caches(prev_output_tokens.shape[0])
        results = self._graph({"token": prev_output_tokens[:, -1:].contiguous(), **encoder_out, **caches})
        logits = results.pop("logits")
        longer = {name.replace("present_", "past_"): value for name, value in results.items()}
        self.set_incremental_state(incremental_state, self._CACHES, longer)
        return logits, None

    def _empty_caches(self, batch: int) -> Tensors:
        """Return the caches before the first token, each (batch, heads, 0, d), by name."""
        sizes = {name: sizes for name, sizes in self._graph.inputs.items() if name.startswith("past_")}
        return {name: torch.zeros(batch, heads, 0, width) for name, (_, heads, _, width) in sizes.items()}

    def reorder_incremental_state(
        self, incremental_state: dict[str, dict[str, Tensor | None]], new_order: Tensor
    ) -> None:
        caches = self.get_incremental_state(incremental_state, self._CACHES)
        if caches is not None:
            reordered = {name: value.index_select(0, new_order) for name, value in caches.items()}
            self.set_incremental_state(incremental_state, self._CACHES, reordered)

    def max_positions(self) -> int:
        return self._longest


class OnnxTransformer(FairseqEncoderDecoderModel):
    """Both graphs as a fairseq model, which can decode and score but cannot be trained."""

    @classmethod
    def from_folder(cls, folder: Path) -> OnnxTransformer:
        """Load the model from a folder that ``fairseq-ats-convert --to onnx`` wrote.

        Raises:
            ValueError: the folder has no readable description, or holds a network in another format.
        """
        description = DeployedFolder.read(folder)
        if description.format != "onnx":
            raise ValueError(f"{folder} holds a network in the format {description.format}, not onnx")
        dictionaries = [
            Dictionary.load(str(folder / name))
            for name in (description.source_dictionary, description.target_dictionary)
        ]
        encoder = OnnxEncoder(Graph(folder / ENCODER_FILE), dictionaries[0], description.max_source_positions)
        decoder = OnnxDecoder(Graph(folder / DECODER_FILE), dictionaries[1], description.max_target_positions)
        return cls(encoder, decoder).eval()

"""Translate with a folder in the format ``onnx``: ONNX Runtime and numpy, without torch and fairseq.

The module :mod:`fairseq_ats.convert.formats.onnx_graphs` defines the graphs. All numbers are float32, all tokens are
int64, and layers count from 0:

==========  ===============================  ==================================================================
file        input                            output
==========  ===============================  ==================================================================
encoder     ``source`` (batch, source)       ``padding`` (batch, source), true at pads; for each decoder layer
                                             n ``cross_key_n`` and ``cross_value_n`` (batch, heads, source, d)
decoder     ``token`` (batch, beam), the     ``logits`` (batch, beam, vocabulary) of the next token; for each
            last of each hypothesis,         layer ``present_key_n`` and ``present_value_n`` (batch, heads,
            end-of-sentence at first; the    past + beam, d): the next step's past
            encoder's outputs;
            ``past_key_n``, ``past_value_n``
            (batch, heads, past, d), past =
            0 at first; ``others`` (batch,
            beam, past + beam)
candidates  ``logits``; ``count`` (1)        ``values`` and ``tokens`` (batch, beam, count): the likeliest next
                                             tokens with their log-probabilities; ``end`` (batch, beam), the
                                             log-probability of end-of-sentence
==========  ===============================  ==================================================================

The hypotheses of a sentence share its caches. ``others`` is added to the scores of the self-attention: 0 at the cached
tokens of the hypothesis itself, -inf at those of the others. With one hypothesis it can be left out. The first step may
have fewer hypotheses than the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ats.data.lines import read_lines
from fairseq_ats.inference.beam_search import END, PAD, SPECIAL, UNKNOWN, Array, beam_search
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.engine import BatchedEngine, Hypothesis, Machine, Search

ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder_step.onnx"
CANDIDATES_FILE = "candidates.onnx"
WEIGHTS_FILE = "weights.bin"


class OnnxEngine(BatchedEngine):
    """A converted network that ONNX Runtime runs on a CPU.

    Args:
        path: the folder.
        folder: its description.
        search: the beam search.
        machine: the threads and the batch size.

    Raises:
        ValueError: the package ``onnxruntime`` is not installed, it cannot read the folder, or the machine's options do
            not suit it.
    """

    def __init__(self, path: Path, folder: DeployedFolder, search: Search, machine: Machine) -> None:
        if machine.device == "cuda":
            raise ValueError(f"--device is cuda and {path} is of format onnx; allowed: cpu, auto")
        if machine.workers > 1:
            raise ValueError(f"--workers is {machine.workers}; allowed without CTranslate2: 1 (use --threads)")
        self._encoder, self._decoder, self._candidates = (
            _Graph(path / name, machine.threads or 0) for name in (ENCODER_FILE, DECODER_FILE, CANDIDATES_FILE)
        )
        self._numbers = {piece: number for number, piece in enumerate(pieces_of(path / folder.source_dictionary))}
        self._pieces = pieces_of(path / folder.target_dictionary)
        super().__init__(search, folder.max_positions, machine.batch_size)

    def _best_of_batch(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        most = max(len(pieces) for pieces in sentences)
        source = np.full((len(sentences), most + 1), PAD)
        for row, pieces in zip(source, sentences, strict=True):
            row[: len(pieces) + 1] = [self._numbers.get(piece, UNKNOWN) for piece in pieces] + [END]
        batch = _Batch(self._encoder, self._decoder, self._candidates, source)
        found = beam_search(batch, len(sentences), self.search, self.longest(most))
        return [Hypothesis(tuple(self._pieces[number] for number in numbers), score) for numbers, score in found]


class _Graph:
    """A graph as a function of ONNX Runtime's values, by name, which does not copy them."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_graph(path, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        #: The heads and the width of each cache that the graph reads, by name.
        self.caches = {i.name: (i.shape[1], i.shape[3]) for i in self._session.get_inputs() if "past_" in i.name}

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, inputs), strict=True))


class _Batch:
    """The graphs with the caches of a batch; see :class:`~fairseq_ats.inference.beam_search.Batch`."""

    def __init__(self, encoder: _Graph, decoder: _Graph, candidates: _Graph, source: Array) -> None:
        self._decoder, self._candidates = decoder, candidates
        self._kept = encoder({"source": _value(source)})
        for name, (heads, width) in decoder.caches.items():
            self._kept[name] = _value(np.zeros((len(source), heads, 0, width), np.float32))

    def step(self, tokens: Array, others: Array, count: int) -> tuple[Array, Array, Array]:
        present = self._decoder(self._kept | {"token": _value(tokens), "others": _value(others)})
        logits = present.pop("logits")
        self._kept |= {name.replace("present_", "past_"): value for name, value in present.items()}
        count = min(count, logits.shape()[2])
        found = self._candidates({"logits": logits, "count": _value(np.array([count]))})
        return found["values"].numpy(), found["tokens"].numpy(), found["end"].numpy()

    def keep(self, sentences: Array) -> None:
        self._kept = {name: _value(value.numpy()[sentences]) for name, value in self._kept.items()}


def open_graph(path: Path, threads: int) -> Any:
    """Return ONNX Runtime's session of a graph.

    Args:
        threads: the number of CPU threads; 0 leaves the choice to ONNX Runtime.

    Raises:
        ValueError: the package ``onnxruntime`` is not installed, or it cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        needs = "the package onnxruntime (pip install onnxruntime), one of fairseq-ats[runtime]"
        raise ValueError(f"{path.parent} needs {needs}: {error}") from error
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}; convert the checkpoint anew")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: it warns that ``others`` has a default
    # Threads that wait sleep. Spinning, two threads took four times the CPU time of one, and longer, beside other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes of errors derive from Exception alone
        raise ValueError(f"{path} cannot be read by onnxruntime {onnxruntime.__version__}: {error}") from error


def pieces_of(dictionary: Path) -> list[str]:
    """Return the pieces of a dictionary that fairseq saved, in the order of their numbers, special symbols first."""
    return [*SPECIAL, *(line.rpartition(" ")[0] for line in read_lines(dictionary))]


def _value(array: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)

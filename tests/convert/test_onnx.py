"""``fairseq-ats-convert --to onnx``: two graphs, run by ONNX Runtime."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fairseq.data import Dictionary

from fairseq_ats.convert.formats import onnx as onnx_model
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.onnx_transformer import OnnxTransformer
from fairseq_ats.partition.partition import Partition
from tests.support.conversions import CORE, SUPER, VARIANTS, convert, load, logits, python_interface, save_checkpoint

UNEQUAL, EMBEDDINGS = VARIANTS["unequal"], VARIANTS["embeddings"]


def to_onnx(checkpoint: Path, level: int | str, output: Path, *options: str) -> Path:
    return convert(checkpoint, level, output, *options, to="onnx")


def greedy(folder: Path, source: list[int], eos: int, most: int = 200) -> list[int]:
    """One sentence with ONNX Runtime alone, as the interface of the graphs is documented."""
    encoder, decoder = (onnxruntime.InferenceSession(folder / name) for name in ("encoder.onnx", "decoder_step.onnx"))
    names = [output.name for output in encoder.get_outputs()]
    of_source = dict(zip(names, encoder.run(names, {"source": np.array([source])}), strict=True))
    shapes = {entry.name: entry.shape for entry in decoder.get_inputs() if entry.name.startswith("past_")}
    past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    names = [output.name for output in decoder.get_outputs()]
    tokens = [eos]
    while len(tokens) == 1 or (tokens[-1] != eos and len(tokens) < most):
        results = decoder.run(names, {"token": np.array([tokens[-1:]]), **of_source, **past})
        present = dict(zip(names, results, strict=True))
        tokens.append(int(present.pop("logits")[0, 0].argmax()))
        past = {name.replace("present", "past"): value for name, value in present.items()}
    return tokens[1:-1]


@pytest.fixture(scope="module")
def converted(onnx_core: Path) -> tuple[Path, Path]:
    """The core of a run in float32, and a folder with its graphs as they were exported."""
    return onnx_core, onnx_core.with_name("exported")


def test_beams_are_those_of_the_checkpoint(
    two_trained_networks: Path, toy_data: Path, converted: tuple[Path, Path]
) -> None:
    folder, _ = converted
    description = DeployedFolder.read(folder)
    assert (description.format, description.network, description.weights) == ("onnx", "core", "float32")
    hub = python_interface(two_trained_networks / "checkpoint_last.pt", toy_data, CORE)
    dictionary = Dictionary.load(str(folder / description.target_dictionary))
    sources = [hub.encode(line) for line in (toy_data / "test.en").read_text().splitlines()[:10]]
    expected = [hub.generate(tokens, beam=1)[0]["tokens"].tolist()[:-1] for tokens in sources]
    assert [greedy(folder, tokens.tolist(), dictionary.eos()) for tokens in sources] == expected
    assert len({tuple(tokens) for tokens in expected}) > 5, "the network says the same of everything"

    # fairseq's own beam search, with batches that shrink as their sentences end.
    dataset = hub.task.build_dataset_for_inference(sources, [len(tokens) for tokens in sources])
    sample = dataset.collater([dataset[i] for i in range(len(sources))])
    model = OnnxTransformer.from_folder(folder)
    generator = hub.task.build_generator([model], SimpleNamespace(beam=3))
    found = hub.task.inference_step(generator, [model], sample)
    by_number = dict(zip(sample["id"].tolist(), found, strict=True))
    for number, tokens in enumerate(sources):
        best = hub.generate(tokens, beam=3)
        assert [h["tokens"].tolist() for h in by_number[number]] == [h["tokens"].tolist() for h in best]


def test_int8(
    two_trained_networks: Path,
    toy_data: Path,
    converted: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every weight of a matrix product and the embeddings are integers, and no step makes floats of whole tables."""
    whole, exported = converted
    copied = partial(shutil.copytree, exported, dirs_exist_ok=True)
    monkeypatch.setattr(onnx_model, "export_graphs", lambda source, folder: copied(folder))
    options = ["--quantization", "int8", "--verify-on", str(toy_data / "test.en"), "--beam", "2"]
    checkpoint = two_trained_networks / "checkpoint_last.pt"
    folder = to_onnx(checkpoint, "core", tmp_path / "int8", *options)
    said = capsys.readouterr().out
    assert "before rounding, logits: differ by at most " in said
    assert re.search(r"logits: differ by 0\.0\d+ nats on average on 8 random pairs \(allowed: 0\.1\)", said)
    assert " of 40 sentences identical" in said
    assert DeployedFolder.read(folder).weights == "int8"
    for name in ("encoder.onnx", "decoder_step.onnx"):
        graph = onnx.load(folder / name).graph
        kinds = {tuple(t.dims): t.data_type for t in graph.initializer if len(t.dims) == 2 and t.dims[0] != 1026}
        assert set(kinds.values()) == {onnx.TensorProto.UINT8}, "all but the positions"
        made_by = {output: node for node in graph.node for output in node.output}
        dequantised = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
        assert [made_by[name].op_type for name in dequantised] == ["Gather"], "the rows of the tokens alone"
    # Positions and embeddings are stored once for both graphs, and the embeddings once more, transposed, as the output
    # layer; as integers they stay in the graphs, small as they are here.
    rows = len(Dictionary.load(str(folder / "dict.de.txt")))
    assert (folder / "weights.bin").stat().st_size == 4 * 32 * 1026
    assert (whole / "weights.bin").stat().st_size == 4 * 32 * (1026 + 2 * rows)

    monkeypatch.setitem(onnx_model.TOLERANCES, "int8", 1e-6)
    with pytest.raises(SystemExit, match=r"logits differ from the source's by .* nats on average"):
        to_onnx(checkpoint, "core", tmp_path / "other", "--quantization", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def check_same_logits(folder: Path, source: Path, level: int, batch: dict[str, Any], data: Path) -> None:
    """After every target token that is none; a step of decoding never sees a pad."""
    tokens = batch["net_input"]["prev_output_tokens"].ne(1)
    assert not tokens.all()
    expected = logits(load(source, data, max_level=level), batch)[tokens]
    found = logits(OnnxTransformer.from_folder(folder), batch)[tokens]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    other = logits(load(source, data, max_level=3 - level), batch)[tokens]
    assert (other - expected).abs().max() > 1e-2, "the networks are alike, and the test could not fail"


def test_the_layers_of_a_low_rank_core_stay_thin(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path, batch: dict[str, Any]
) -> None:
    """Of unequal heads and norms, which CTranslate2 refuses, half of the values, and two of three decoder layers.

    The rank is 8, a quarter of the 32 dimensions; the hidden layers have 64 and 48 neurons. The encoder has one layer.
    """
    options = ["--partitioned-linear-module-name", "PartitionedRankLinear", "--small-ratio", "0.25", *UNEQUAL]
    built = build(*options, "--core-vo", "width:0.5", "--decoder-layers", "3", "--core-decoder-layers", "2")
    source = save_checkpoint(built, tmp_path / "source.pt")
    folder = to_onnx(source, "core", tmp_path / "folder")
    check_same_logits(folder, source, CORE, batch, toy_data)

    def matrices(name: str) -> dict[tuple[int, ...], int]:
        found = [tuple(sorted(t.dims)) for t in onnx.load(folder / name).graph.initializer if len(t.dims) == 2]
        shapes = [(8, 32), (8, 64), (8, 48), (16, 32), (32, 32), (32, 64), (32, 48)]
        return {shape: number for shape in shapes if (number := found.count(shape))}

    # Thin: U and V of query, key, first and second hidden layer, and of the keys of the source for 2 decoder layers.
    # Dense: value and output, and the values of the source.
    assert matrices("encoder.onnx") == {(8, 32): 10, (8, 64): 2, (16, 32): 4}
    # Thin: of query, key, both hidden layers, and the queries to the source. Dense: value and two outputs.
    assert matrices("decoder_step.onnx") == {(8, 32): 16, (8, 48): 4, (16, 32): 6}


def test_the_super_network_is_folded(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path, batch: dict[str, Any]
) -> None:
    """With learned positions in the decoder and norms of the embeddings; one dense matrix a layer."""
    options = ["--partitioned-linear-module-name", "PartitionedRankLinear", "--small-ratio", "0.25", *EMBEDDINGS]
    built = build(*options, "--encoder-layers", "1", "--decoder-layers", "1")
    source = save_checkpoint(built, tmp_path / "source.pt")
    folder = to_onnx(source, "super", tmp_path / "folder")
    check_same_logits(folder, source, SUPER, batch, toy_data)
    shapes = [tuple(t.dims) for t in onnx.load(folder / "decoder_step.onnx").graph.initializer]
    assert not [shape for shape in shapes if 8 in shape]


def test_what_the_graphs_do_not_know_is_refused_before_work(
    build: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_checkpoint(build("--no-cross-attention"), tmp_path / "source.pt")
    monkeypatch.delattr(onnx_model.OnnxModel, "write")
    with pytest.raises(SystemExit, match="--to onnx does not know this model: --no-cross-attention is given"):
        to_onnx(source, "core", tmp_path / "folder")
    empty = save_checkpoint(build("--decoder-layers", "0"), tmp_path / "empty.pt")
    with pytest.raises(SystemExit, match="--to onnx does not know this model: --decoder-layers is 0"):
        to_onnx(empty, "core", tmp_path / "folder")
    with pytest.raises(SystemExit, match="--quantization is int16; allowed with --to onnx: float32, int8"):
        to_onnx(source, "core", tmp_path / "folder", "--quantization", "int16")


def test_a_folder_of_another_format_is_refused(tmp_path: Path, toy_data: Path) -> None:
    for name in ("dict.en.txt", "dict.de.txt"):
        (tmp_path / name).write_bytes((toy_data / name).read_bytes())
    fields: dict[str, Any] = {"network": "core", "weights": "float32", "sentencepiece_model": None, "lowercase": False}
    fields |= {"source_language": "en", "target_language": "de", "max_source_positions": 9, "max_target_positions": 9}
    fields |= {"source_dictionary": "dict.en.txt", "target_dictionary": "dict.de.txt"}
    DeployedFolder(format="ctranslate2", partition=Partition(), **fields).write(tmp_path)
    with pytest.raises(ValueError, match="holds a network in the format ctranslate2, not onnx"):
        OnnxTransformer.from_folder(tmp_path)

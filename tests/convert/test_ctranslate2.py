"""``fairseq-ats-convert --to ctranslate2``: a folder that translates text by itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2
import pytest
import sentencepiece
import torch

from fairseq_ats.convert.formats import ctranslate2 as ctranslate2_model
from fairseq_ats.convert.formats.fairseq import stock_checkpoint
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.partition.partition import Partition
from fairseq_ats.translate import Translator
from tests.fixtures import ROOT, TINY_ARCH
from tests.support.conversions import CORE, SUPER, VARIANTS, convert, load, python_interface, save_checkpoint

SENTENCES = 20


def to_ctranslate2(checkpoint: Path, level: int | str, output: Path, *options: str) -> Path:
    return convert(checkpoint, level, output, *options, to="ctranslate2")


def translator(folder: Path) -> ctranslate2.Translator:
    return ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)


@torch.no_grad()
def expected_log_probabilities(model: torch.nn.Module, source: list[str], target: list[str]) -> torch.Tensor:
    """Of each target token and of end-of-sentence, for one sentence."""
    dictionary = model.encoder.dictionary
    eos = [dictionary.eos()]
    source_tokens = torch.tensor([[dictionary.index(token) for token in source] + eos])
    target_tokens = torch.tensor([dictionary.index(token) for token in target] + eos)
    previous = torch.cat([target_tokens[-1:], target_tokens[:-1]])[None]
    every = model(source_tokens, torch.tensor([source_tokens.shape[1]]), previous)[0][0].log_softmax(-1)
    return every.gather(1, target_tokens[:, None])[:, 0]


@pytest.mark.parametrize("level", [CORE, SUPER])
def test_the_folder_translates_text_as_fairseq_does(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path, level: int
) -> None:
    """Raw text to raw text with nothing but the folder; beams as those of fairseq's own Python interface."""
    checked = ["--verify-on", str(toy_data / "test.en"), "--beam", "3"]
    folder = to_ctranslate2(two_trained_networks / "checkpoint_last.pt", level, tmp_path / "folder", *checked)
    description = DeployedFolder.read(folder)
    assert (description.format, description.level, description.weights) == ("ctranslate2", level, "float32")
    assert description.partition == Partition("PartitionedLinear", 0.25, 2)
    assert (description.source_language, description.target_language) == ("en", "de")
    assert description.sentencepiece_model is not None

    hub = python_interface(two_trained_networks / "checkpoint_last.pt", toy_data, level)
    text = (toy_data / "test.en").read_text().splitlines()[:SENTENCES]
    expected = [hub.translate(line, beam=3) for line in text]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / description.sentencepiece_model))
    results = translator(folder).translate_batch(
        [pieces.encode(line, out_type=str) for line in text], beam_size=3, max_decoding_length=description.max_len_b
    )
    assert [pieces.decode(result.hypotheses[0]) for result in results] == expected
    assert len(set(expected)) > SENTENCES / 2, "the network says the same of everything"


@pytest.mark.parametrize(
    ("module_name", "variant"),
    [
        ("PartitionedLinear", "pre-norm"),
        ("PartitionedLinear", "unequal depths"),
        ("PartitionedRankLinear", "post-norm"),
        ("PartitionedRankLinear", "embeddings"),
    ],
)
def test_same_probabilities(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path, module_name: str, variant: str
) -> None:
    options = (VARIANTS | {"unequal depths": ["--encoder-layers", "1"]})[variant]
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", *options)
    source = save_checkpoint(built, tmp_path / "source.pt")
    for level in (CORE, SUPER):
        dense = ["--dense"] if level == CORE and module_name == "PartitionedRankLinear" else []
        folder = to_ctranslate2(source, level, tmp_path / str(level), *dense)
        pair = ["▁ba", "▁be", "▁bi"], ["▁BA", "▁BE"]
        (found,) = translator(folder).score_batch([pair[0]], [pair[1]])
        expected = expected_log_probabilities(load(source, toy_data, max_level=level), *pair)
        torch.testing.assert_close(torch.tensor(found.log_probs), expected, rtol=0, atol=1e-4)
        other = expected_log_probabilities(load(source, toy_data, max_level=3 - level), *pair)
        assert (other - expected).abs().max() > 1e-2, "the networks are alike, and the test could not fail"


def test_options_that_a_configuration_leaves_to_the_arch(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path
) -> None:
    """As after ``fairseq-hydra-train``: a dictionary of the options that were given."""
    source = save_checkpoint(build("--partitioned-linear-module-name", "PartitionedLinear"), tmp_path / "source.pt")
    state = torch.load(source, weights_only=True)
    given = ("encoder_layers", "decoder_layers", "encoder_embed_dim", "decoder_embed_dim", "encoder_ffn_embed_dim")
    given += ("decoder_ffn_embed_dim", "encoder_attention_heads", "decoder_attention_heads", "share_all_embeddings")
    options = vars(state["cfg"]["model"])
    state["cfg"]["model"] = {"_name": "transformer"} | {name: options[name] for name in given}
    torch.save(state, source)
    folder = to_ctranslate2(source, "core", tmp_path / "folder")
    (found,) = translator(folder).score_batch([["▁ba"]], [["▁BA"]])
    expected = expected_log_probabilities(load(source, toy_data, max_level=1), ["▁ba"], ["▁BA"])
    torch.testing.assert_close(torch.tensor(found.log_probs), expected, rtol=0, atol=1e-4)


def test_int8(
    two_trained_networks: Path,
    toy_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = two_trained_networks / "checkpoint_last.pt"
    whole = to_ctranslate2(source, "super", tmp_path / "whole")
    options = ["--quantization", "int8", "--verify-on", str(toy_data / "test.en"), "--beam", "2"]
    folder = to_ctranslate2(source, "super", tmp_path / "int8", *options)
    assert " of 40 sentences identical" in capsys.readouterr().out
    assert DeployedFolder.read(folder).weights == "int8"
    # Not a quarter of it: the table of positions, 1024 by 32, stays float32.
    sizes = [(path / "model.bin").stat().st_size - 4 * 1024 * 32 for path in (folder, whole)]
    assert sizes[0] < 0.4 * sizes[1]

    monkeypatch.setitem(ctranslate2_model.TOLERANCES, "int8", 1e-6)
    with pytest.raises(SystemExit, match=r"log-probabilities differ from the source's by .* nats on average"):
        to_ctranslate2(source, "super", tmp_path / "other", "--quantization", "int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8", "whole"]


def test_rounding_hides_no_wrong_network(
    two_trained_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that is wrong by 1% changes less than rounding to int8 may."""

    def wrong(source: SourceNetwork) -> dict[str, Any]:
        checkpoint = stock_checkpoint(source)
        name = "encoder.layers.0.fc2.weight"
        return checkpoint | {"model": checkpoint["model"] | {name: checkpoint["model"][name] * 0.99}}

    monkeypatch.setattr(ctranslate2_model, "stock_checkpoint", wrong)
    with pytest.raises(SystemExit, match=r"differ from the source's by .* nats on random input; allowed: 0\.0001"):
        to_ctranslate2(
            two_trained_networks / "checkpoint_last.pt", "super", tmp_path / "folder", "--quantization", "int8"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--decoder-attention-heads", "2"],
            "--encoder-attention-heads is 4 and --decoder-attention-heads is 2; they must be equal",
        ),
        (["--decoder-normalize-before"], "--decoder-normalize-before is True; they must be equal"),
        (["--activation-fn", "tanh"], "--activation-fn is tanh; allowed: gelu, "),
        (["--no-token-positional-embeddings"], "--no-token-positional-embeddings is given"),
        (["--no-cross-attention"], "--no-cross-attention is given"),
        (["--encoder-layers", "0"], "--encoder-layers is 0; allowed: 1 or more"),
        (["--cross-self-attention"], "--cross-self-attention is given"),
        (["--decoder-output-dim", "16"], "--decoder-output-dim is 16; allowed: 32, the value of --decoder-embed-dim"),
    ],
)
def test_what_ctranslate2_cannot_hold_is_refused_before_work(
    build: Callable[..., SimpleNamespace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    arch = [option for option in TINY_ARCH if option != "--share-all-embeddings"]
    built = build("--partitioned-linear-module-name", "PartitionedLinear", *options, arch=arch)
    source = save_checkpoint(built, tmp_path / "source.pt")
    monkeypatch.delattr(ctranslate2_model.CTranslate2Model, "write")
    with pytest.raises(SystemExit, match="CTranslate2 cannot hold this model: ") as refusal:
        to_ctranslate2(source, "core", tmp_path / "folder")
    assert message in str(refusal.value)


def test_a_low_rank_core_is_refused_before_work(build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    source = save_checkpoint(build("--partitioned-linear-module-name", "PartitionedRankLinear"), tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="--to ctranslate2 has dense layers only, and this core is of low rank"):
        to_ctranslate2(source, "core", tmp_path / "folder")


def test_a_folder_is_replaced_on_request_and_only_one_of_ours(
    build: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    source = save_checkpoint(build("--partitioned-linear-module-name", "PartitionedLinear"), tmp_path / "source.pt")
    folder = to_ctranslate2(source, "core", tmp_path / "folder")
    with pytest.raises(SystemExit, match="which exists; --overwrite replaces it"):
        to_ctranslate2(source, "super", folder)
    assert DeployedFolder.read(folder).network == "core"
    to_ctranslate2(source, "super", folder, "--overwrite")
    assert DeployedFolder.read(folder).network == "super"

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    shutil.copytree(folder, tmp_path / "mixed")
    (tmp_path / "mixed" / "thesis.tex").touch()
    for name in ("mine", "mixed"):
        with pytest.raises(SystemExit, match=r"which holds thesis\.tex that fairseq-ats-convert did not write"):
            to_ctranslate2(source, "core", tmp_path / name, "--overwrite")
        assert (tmp_path / name / "thesis.tex").exists()
    source = source.rename(folder / "model.bin")
    with pytest.raises(SystemExit, match=r"model\.bin is read from there; write somewhere else"):
        to_ctranslate2(source, "core", folder, "--overwrite")
    assert source.exists()


def test_lower_casing_is_known_to_the_folder(two_trained_networks: Path, toy_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dict.en.txt", "dict.de.txt", "sentencepiece.model"):
        (data / name).write_bytes((toy_data / name).read_bytes())
    (data / "binarised.json").write_text(json.dumps({"source": "en", "target": "de", "lowercase": True}))
    checkpoint = two_trained_networks / "checkpoint_last.pt"
    folder = to_ctranslate2(checkpoint, "super", tmp_path / "folder", "--data", str(data))
    description = DeployedFolder.read(folder)
    assert description.lowercase
    translate = Translator(folder, max_len_b=20)
    assert translate("BA BE") == translate("ba be")
    dataclasses.replace(description, lowercase=False).write(folder)
    translate = Translator(folder, max_len_b=20)
    assert translate("BA BE") != translate("ba be"), "the test could not fail"


def test_a_folder_without_sentencepiece_reads_tokens(
    build: Callable[..., SimpleNamespace],
    toy_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = save_checkpoint(build("--partitioned-linear-module-name", "PartitionedLinear"), tmp_path / "source.pt")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dict.en.txt", "dict.de.txt", "binarised.json"):
        (data / name).write_bytes((toy_data / name).read_bytes())
    folder = to_ctranslate2(source, "core", tmp_path / "folder", "--data", str(data))
    assert "no sentencepiece model: lines are taken as tokens" in capsys.readouterr().out
    Translator(folder)
    assert "no sentencepiece model: lines are taken as tokens" in capsys.readouterr().out
    assert DeployedFolder.read(folder).sentencepiece_model is None
    (tmp_path / "pieces.model").write_bytes((toy_data / "sentencepiece.model").read_bytes())
    elsewhere = ["--data", str(data), "--sentencepiece-model", str(tmp_path / "pieces.model")]
    folder = to_ctranslate2(source, "core", tmp_path / "other", *elsewhere)
    assert (folder / str(DeployedFolder.read(folder).sentencepiece_model)).is_file()


def test_a_missing_package_is_said_as_such(
    two_trained_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(SystemExit, match=r"this format needs the package ctranslate2 .*'fairseq-ats\[deploy\]'"):
        to_ctranslate2(two_trained_networks / "checkpoint_last.pt", "core", tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_ctranslate2s_own_converter_reads_no_stock_file(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path
) -> None:
    """docs/deployment.md says so; with another answer it has to be changed."""
    from ctranslate2.converters import FairseqConverter

    stock = convert(two_trained_networks / "checkpoint_last.pt", "super", tmp_path / "stock.pt")
    with pytest.raises(AttributeError):
        FairseqConverter(str(stock), str(toy_data), "en", "de").convert(str(tmp_path / "folder"))
    said = " ".join((ROOT / "docs/deployment.md").read_text().split())
    assert "CTranslate2's own `ct2-fairseq-converter` does not read it" in said

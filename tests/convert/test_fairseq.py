"""``fairseq-ats-convert --to fairseq``: a stock checkpoint that computes the same, without the plugin."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.modules import MultiheadAttention

from fairseq_ats.convert import folding
from fairseq_ats.convert.folder_contents import write_dictionaries
from fairseq_ats.convert.formats import fairseq as stock_checkpoint
from fairseq_ats.modules import PartitionedRankLinear
from fairseq_ats.translate import Translator
from tests import STAND_INS
from tests.checkpoints.test_reading import Code
from tests.fixtures import ROOT, TINY_ARCH
from tests.support.command_line import hypotheses, run
from tests.support.conversions import CORE, SUPER, VARIANTS, convert, load, logits, python_interface, save_checkpoint
from tests.support.disk import no_room


@pytest.fixture
def source(build: Callable[..., SimpleNamespace], tmp_path: Path, module_name: str) -> Path:
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    return save_checkpoint(built, tmp_path / "source.pt")


@pytest.mark.parametrize(
    ("module_name", "variant"),
    [
        ("PartitionedLinear", "post-norm"),
        ("PartitionedLinear", "pre-norm"),
        ("PartitionedLinear", "unequal"),
        ("PartitionedLinear", "no encoder layers"),
        ("PartitionedRankLinear", "post-norm"),
        ("PartitionedRankLinear", "pre-norm"),
        ("PartitionedRankLinear", "embeddings"),
    ],
)
def test_same_logits(
    build: Callable[..., SimpleNamespace],
    toy_data: Path,
    tmp_path: Path,
    batch: dict[str, Any],
    module_name: str,
    variant: str,
) -> None:
    """Partitioned attention and stock attention are different code; the difference is float32's rounding."""
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", *VARIANTS[variant])
    source = save_checkpoint(built, tmp_path / "source.pt")
    expected = {level: logits(load(source, toy_data, max_level=level), batch) for level in (CORE, SUPER)}
    assert (expected[CORE] - expected[SUPER]).abs().max() > 1e-2, "the networks are alike, and the test could not fail"
    for level in (CORE, SUPER):
        dense = ["--dense"] if level == CORE and module_name == "PartitionedRankLinear" else []
        converted = load(convert(source, level, tmp_path / f"{level}.pt", *dense), toy_data)
        assert not [m for m in converted.modules() if type(m).__module__.startswith("fairseq_ats")]
        difference = (logits(converted, batch) - expected[level]).abs().max()
        assert difference < 1e-5 * expected[level].abs().max()


def test_the_small_width_core_is_narrow_and_its_heads_are_filled_up(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path
) -> None:
    built = build("--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25")
    source = save_checkpoint(built, tmp_path / "source.pt")
    converted = load(convert(source, "core", tmp_path / "core.pt"), toy_data)
    # r = 0.25 of 64 hidden neurons in the encoder, of 48 in the decoder, and of 8 key dimensions in each of 4 heads.
    assert [converted.encoder.layers[0].fc1.out_features, converted.decoder.layers[1].fc2.in_features] == [16, 12]
    core = built.model.decoder.layers[0].encoder_attn.k_proj
    stock = converted.decoder.layers[0].encoder_attn
    assert type(stock) is MultiheadAttention
    rows = stock.k_proj.weight.view(4, 8, 32)
    assert torch.equal(rows[:, :2], core.core_weight.view(4, 2, 32))
    assert torch.equal(rows[:, 2:], torch.zeros(4, 6, 32))
    assert torch.equal(stock.k_proj.bias.view(4, 8)[:, :2], core.core_bias.view(4, 2))
    assert torch.equal(stock.k_proj.bias.view(4, 8)[:, 2:], torch.zeros(4, 6))


def test_the_super_network_is_folded(build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path) -> None:
    """W + VU, added up in float64."""
    built = build("--partitioned-linear-module-name", "PartitionedRankLinear", "--small-ratio", "0.25")
    source = save_checkpoint(built, tmp_path / "source.pt")
    state = torch.load(convert(source, "super", tmp_path / "super.pt"), weights_only=True)["model"]
    assert set(state) == set(build(task="translation", optimizer="adam").model.state_dict())
    layers = [(name, m) for name, m in built.model.named_modules() if isinstance(m, PartitionedRankLinear)]
    assert len(layers) == 20
    for name, layer in layers:
        expected = layer.extension_weight.double() + layer.core_v.double() @ layer.core_u.double()
        torch.testing.assert_close(state[f"{name}.weight"].double(), expected, rtol=0, atol=1e-6)


def test_a_stock_file_says_nothing_of_the_plugin(source: Path, tmp_path: Path) -> None:
    """No class in it, no option of the plugin, and no name of its task and optimizer."""
    path = convert(source, "super", tmp_path / "super.pt")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    state = torch.load(path, weights_only=True)
    words = str({key: value for key, value in state.items() if key != "model"})
    for word in ("partition", "small_ratio", "alternate", "max_level", "fairseq_ats", "Partition", "Namespace"):
        assert word not in words, word
    assert state["cfg"]["task"]["_name"] == "translation"
    assert state["cfg"]["optimizer"]["_name"] == "adam"
    assert state["cfg"]["model"]["arch"] == "transformer"
    assert state["optimizer_history"][-1]["num_updates"] == 5


# The parts of an installation without the plugin: site-packages, and nothing that its .pth files add to the path.
WITHOUT_PLUGIN = """
import builtins, importlib.util, runpy, sys
assert importlib.util.find_spec("fairseq_ats") is None, "the plugin is on the path"
builtins.help = None  # python -S leaves it out, and fairseq/dataclass/configs.py names it
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def generate_without_plugin(folder: Path, data: Path, checkpoint: Path, *options: str) -> dict[int, str]:
    tool = Path(sys.executable).parent / "fairseq-generate"
    command = [sys.executable, "-S", "-W", "ignore", "-c", WITHOUT_PLUGIN, str(tool), str(data), "--path"]
    command += [str(checkpoint), "--cpu", "--required-batch-size-multiple", "1", *options]
    variables = {"PYTHONPATH": f"{STAND_INS}:{sysconfig.get_path('purelib')}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return hypotheses(done.stdout)


def test_plain_fairseq_generate_without_the_plugin(two_trained_networks: Path, toy_data: Path, tmp_path: Path) -> None:
    """Beams of the core of a real training, from a command that cannot import the plugin."""
    source = two_trained_networks / "checkpoint_last.pt"
    path = convert(source, CORE, tmp_path / "stock.pt", "--verify-on", str(toy_data / "test.en"), "--beam", "3")
    found = generate_without_plugin(tmp_path, toy_data, path, "--beam", "3", "--batch-size", "16")
    hub = python_interface(source, toy_data, CORE)
    sentences = [hub.encode(line) for line in (toy_data / "test.en").read_text().splitlines()]
    expected = [hub.string(beams[0]["tokens"]) for beams in hub.generate(sentences, beam=3)]
    assert len(set(expected)) > 20, "the network says the same of everything"
    assert found == dict(enumerate(expected))


def test_a_checkpoint_of_hydra_train(toy_data: Path, tmp_path: Path) -> None:
    (tmp_path / "ats.yaml").write_text(
        f"""# @package _group_
common: {{user_dir: {ROOT}/fairseq_ats, cpu: true, seed: 7, no_progress_bar: true}}
task:
  _name: translation_with_partitioned_model
  data: {toy_data}
  partitioned_linear_module_name: PartitionedLinear
  small_ratio: 0.25
  alternate: true
optimizer: {{_name: adam_for_partitioned_model, alternate_lr_coef: 0.5}}
criterion: {{_name: cross_entropy}}
lr_scheduler: {{_name: fixed}}
model:
  _name: transformer_iwslt_de_en
  encoder_layers: 1
  decoder_layers: 1
  encoder_embed_dim: 32
  decoder_embed_dim: 32
  encoder_ffn_embed_dim: 64
dataset: {{max_tokens: 400, disable_validation: true}}
optimization: {{lr: [0.03], max_update: 2}}
checkpoint: {{save_dir: {tmp_path}/run}}
"""
    )
    run(["fairseq-hydra-train", "--config-dir", str(tmp_path), "--config-name", "ats", f"hydra.run.dir={tmp_path}"])
    path = convert(tmp_path / "run" / "checkpoint_last.pt", "core", tmp_path / "core.pt")
    model = load(path, toy_data)
    # The arch's own 1024 in the decoder, which the configuration does not repeat.
    assert [model.encoder.layers[0].fc1.out_features, model.decoder.layers[0].fc1.out_features] == [16, 256]


def test_a_low_rank_core_becomes_dense_on_request_only(
    build: Callable[..., SimpleNamespace], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build("--partitioned-linear-module-name", "PartitionedRankLinear", "--small-ratio", "0.25")
    source = save_checkpoint(built, tmp_path / "source.pt")
    output = tmp_path / "core.pt"
    with pytest.raises(SystemExit, match="of low rank; --to onnx and --to core keep its layers thin, --dense"):
        convert(source, "core", output)
    assert not output.exists()
    core = build(
        "--partitioned-linear-module-name", "PartitionedRankLinear", "--small-ratio", "0.25", "--max-level", "1"
    )
    dense = build(task="translation", optimizer="adam").model
    sizes = [sum(p.numel() for p in model.parameters()) for model in (core.model, dense)]
    convert(source, "core", output, "--dense")
    assert f"dense: {sizes[0]:,} parameters become {sizes[1]:,}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--dense is for a low-rank core; this is the super-network"):
        convert(source, "super", tmp_path / "super.pt", "--dense")


def test_a_conversion_that_fails_leaves_no_file(
    source: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folding that is slightly wrong is found by the comparison of logits."""
    before = sorted(tmp_path.iterdir())

    def wrong(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        parameters = folding.stock_parameters(model)
        name = "decoder.layers.0.encoder_attn.q_proj.weight"
        parameters[name] = parameters[name] * 1.01  # not in place: the source has the same tensor
        return parameters

    monkeypatch.setattr(stock_checkpoint, "stock_parameters", wrong)
    with pytest.raises(SystemExit, match=r"logits differ from the source's by .* nats on random input; allowed"):
        convert(source, "super", tmp_path / "super.pt")
    assert sorted(tmp_path.iterdir()) == before


def test_what_exists_is_replaced_on_request_only(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "super.pt"
    output.write_text("mine")
    with pytest.raises(SystemExit, match="which exists; --overwrite replaces it"):
        convert(source, "super", output)
    assert output.read_text() == "mine"
    convert(source, "super", output, "--overwrite")
    assert "model" in torch.load(output, weights_only=True)
    with pytest.raises(SystemExit, match="is the folder"):
        convert(source, "super", tmp_path, "--overwrite")
    with pytest.raises(SystemExit, match="there is no folder"):
        convert(source, "super", tmp_path / "nowhere" / "super.pt")


def test_a_checkpoint_that_carries_code_is_refused(source: Path, tmp_path: Path) -> None:
    state = torch.load(source, weights_only=True)
    torch.save(state | {"extra": Code(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(SystemExit, match="holds more than weights and options"):
        convert(tmp_path / "evil.pt", "super", tmp_path / "super.pt")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "super.pt").exists()


def test_wrong_input_is_named(source: Path, build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    def refuses(message: str, checkpoint: Path, level: int, *options: str) -> None:
        with pytest.raises(SystemExit, match=message):
            convert(checkpoint, level, tmp_path / "out.pt", *options)
        assert not (tmp_path / "out.pt").exists()

    refuses("there is no checkpoint", tmp_path / "none.pt", SUPER)
    with pytest.raises(SystemExit, match="is read from there; write somewhere else"):
        convert(source, SUPER, source, "--overwrite")
    refuses("--level is 3; allowed: core, super, 1, 2", source, 3)
    refuses("argument --beam: 2.5 is not allowed; allowed: a whole number", source, SUPER, "--beam", "2.5")
    refuses("--beam is 3, the beam width of --verify-on, which is not given; --tune-on", source, SUPER, "--beam", "3")
    (tmp_path / "broken.model").write_text("no pieces")
    broken = ["--sentencepiece-model", str(tmp_path / "broken.model")]
    refuses("cannot be read as a sentencepiece model", source, SUPER, *broken)
    refuses("--data is .* which is not a folder; --data names", source, SUPER, "--data", str(tmp_path / "none"))
    refuses("does not tell its languages", source, SUPER, "--data", str(tmp_path))
    refuses("--sentencepiece-model is .*, which is not a file", source, SUPER, "--sentencepiece-model", str(tmp_path))
    refuses("--verify-on is .*, which cannot be read", source, SUPER, "--verify-on", str(tmp_path / "none"))
    (tmp_path / "empty").write_text("\n\n")
    refuses("--verify-on is .*, which holds no sentence", source, SUPER, "--verify-on", str(tmp_path / "empty"))

    bart = build("--partitioned-linear-module-name", "PartitionedLinear", arch=["--arch", "bart_base", *TINY_ARCH[2:]])
    refuses("--to fairseq is not for BART", save_checkpoint(bart, tmp_path / "bart.pt"), SUPER)

    (tmp_path / "data").mkdir()
    for language in ("en", "de"):
        (tmp_path / "data" / f"dict.{language}.txt").write_text("one 1\n")
    (tmp_path / "data" / "train.en-de.en.idx").touch()
    refuses("was trained with different dictionaries from those in", source, SUPER, "--data", str(tmp_path / "data"))

    stock = save_checkpoint(build(task="translation", optimizer="adam"), tmp_path / "stock.pt")
    refuses("was not written by --task translation_with_partitioned_model", stock, SUPER)
    moved = torch.load(source, weights_only=True)
    moved["cfg"]["task"]["data"] = str(tmp_path / "gone")
    torch.save(moved, tmp_path / "moved.pt")
    refuses(r"was trained with .*gone, which is not a folder; --data names", tmp_path / "moved.pt", SUPER)


def test_dictionaries_that_cannot_be_read_or_written(source: Path, toy_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(toy_data, tmp_path / "data")
    path = data / "dict.en.txt"
    content = path.read_bytes()
    first, end = content.split(b" ")[0], ["--data", str(data)]
    for added, said in ((first + b" 1\n", "Duplicate word"), (b"\xff 1\n", "Incorrect encoding"), (b"x\n", "format")):
        path.write_bytes(content + added)
        message = f"{path} cannot be read as a dictionary: .*{said}"
        with pytest.raises(SystemExit, match=message):
            convert(source, SUPER, tmp_path / "super.pt", *end)
        with pytest.raises(ValueError, match=message):
            Translator(source, data=data)
    path.write_bytes(content + first + b" 1 #fairseq:overwrite\n")
    found = SimpleNamespace(cfg=SimpleNamespace(source_lang="en", target_lang="de"))
    found.source_dictionary = found.target_dictionary = Dictionary.load(str(path))
    with pytest.raises(ValueError, match=f"{path} has an entry twice, by #fairseq:overwrite"):
        write_dictionaries(SimpleNamespace(task=found, data=SimpleNamespace(path=data)), tmp_path)  # type: ignore


@pytest.mark.parametrize("level", ["extension", "1.5"])
def test_a_level_that_is_none(source: Path, tmp_path: Path, level: str) -> None:
    with pytest.raises(SystemExit, match=f"--level is {level}; allowed: core, super, 1, 2"):
        convert(source, level, tmp_path / "out.pt")


def test_only_cores_are_safetensors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--output is .*super\.safetensors, and only --to core writes \.safetensors"):
        convert(source, SUPER, tmp_path / "super.safetensors")


@pytest.mark.parametrize(
    ("to", "cause"), [("fairseq", ""), ("ctranslate2", ""), ("huggingface", ".*I/O error: ")], ids=lambda value: value
)
def test_a_full_disk(source: Path, tmp_path: Path, to: str, cause: str) -> None:
    before = sorted(tmp_path.iterdir())
    with no_room(), pytest.raises(SystemExit, match=f"{tmp_path}/super cannot be written: {cause}File too large"):
        convert(source, SUPER, tmp_path / "super", to=to)
    assert sorted(tmp_path.iterdir()) == before

"""Files that a training began from are of no concern afterwards: not to decode, count, convert or go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq_ats.cli import cost as command
from fairseq_ats.cost import cost
from fairseq_ats.translate import Translator
from tests.cost.test_cost import ARCH
from tests.support.conversions import SUPER, convert, load, save_checkpoint

Build = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a training whose embeddings came from a file that is gone."""
    gone = str(tmp_path_factory.mktemp("gone") / "embeddings.txt")
    return ["--encoder-embed-path", gone, "--decoder-embed-path", gone, "--small-ratio", "0.25"]


@pytest.fixture(scope="module")
def checkpoint(build: Build, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a training with embeddings from a file, which has been deleted."""
    file = Path(options[1])
    file.write_text("2 32\n" + "".join(f"{word} {'0.5 ' * 32}\n" for word in ("▁ba", "▁be")))
    built = build(*options)
    file.unlink()
    task = built.task
    assert built.model.encoder.embed_tokens.weight[task.source_dictionary.index("▁be")].tolist() == [0.5] * 32
    return save_checkpoint(built, tmp_path_factory.mktemp("run") / "checkpoint.pt")


def test_a_network_is_read_and_exported(checkpoint: Path, toy_data: Path, tmp_path: Path) -> None:
    stock = convert(checkpoint, "super", tmp_path / "stock.pt")
    lines = ["ba be", "bi"]
    expected = Translator(checkpoint, max_len_b=5)(lines)
    assert Translator(stock, max_len_b=5)(lines) == expected
    weights = load(stock, toy_data).encoder.embed_tokens.weight
    assert torch.equal(weights, load(checkpoint, toy_data, max_level=SUPER).encoder.embed_tokens.weight)


def test_a_network_is_counted(checkpoint: Path) -> None:
    task, model = cost.model_of_checkpoint(str(checkpoint))
    assert cost.network_cost(model, task, 2, 5, 2).parameters > 0


def test_nested_options_of_hydra(checkpoint: Path, toy_data: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    flat = vars(state["cfg"]["model"])
    names = ("embed_path", "embed_dim", "ffn_embed_dim", "layers", "attention_heads")
    nested = {side: {name: flat[f"{side}_{name}"] for name in names} for side in ("encoder", "decoder")}
    state["cfg"]["model"] = {"_name": "transformer", "share_all_embeddings": True} | nested
    torch.save(state, tmp_path / "hydra.pt")
    stock = convert(tmp_path / "hydra.pt", "super", tmp_path / "stock.pt")
    assert isinstance(load(stock, toy_data), torch.nn.Module)
    options = torch.load(stock, weights_only=True)["cfg"]["model"]
    assert options["encoder"]["embed_path"] is options["decoder"]["embed_path"] is None


def test_a_training_goes_on(build: Build, checkpoint: Path, options: list[str]) -> None:
    resumed = build(*options, "--finetune-from-model", str(checkpoint))
    assert resumed.task.partition.max_level == 2
    with pytest.raises(FileNotFoundError, match="embeddings"):
        build(*options)


def test_options_are_counted_without_the_files(
    options: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Nor is a training looked at that happens to be in fairseq's default folder."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/checkpoint_last.pt").write_bytes(checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    files = [*options, "--init-from", "gone.pt", "--finetune-from-model", str(checkpoint)]
    command.main([*ARCH, *files, "--vocabulary", "20", "--tokens", "12", "--length", "6"])
    assert "| core |" in capsys.readouterr().out

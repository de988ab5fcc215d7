"""``--level perturbed``: what ``--scheme prune`` leaves is a smaller stock Transformer."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq_ats.convert.model_card import model_card
from fairseq_ats.convert.source_network import read_source
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.translate import Translator
from tests.support.conversions import convert, load, logits, save_checkpoint

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25".split()


def pruned(build: Build, path: Path, unit: str = "neuron") -> SimpleNamespace:
    arguments = f'{{"sparsity": 0.5, "end": 1, "every": 1, "unit": "{unit}"}}'
    built = build(*SMALL_WIDTH, "--max-target-positions", "12", "--scheme", "prune", "--scheme-args", arguments)
    built.task.scheme.update(1)
    built.path = save_checkpoint(built, path)
    return built


def test_a_stock_transformer_of_half_the_neurons(
    build: Build, toy_data: Path, batch: dict[str, Any], tmp_path: Path
) -> None:
    """Its logits, to float32's rounding, and its beams are those of the network with zeros."""
    built = pruned(build, tmp_path / "source.pt")
    stock = load(convert(tmp_path / "source.pt", "perturbed", tmp_path / "stock.pt"), toy_data)
    assert [stock.encoder.layers[1].fc1.out_features, stock.decoder.layers[0].fc2.in_features] == [32, 24]
    built.model.eval()
    search = Namespace(beam=3, max_len_b=12)
    found = built.task.build_generator([stock], search).generate([stock], batch)
    with built.task.scheme.validation_points(1)[0].reference.of(built.model):
        torch.testing.assert_close(logits(stock, batch), logits(built.model, batch), rtol=0, atol=1e-5)
        expected = built.task.build_generator([built.model], search).generate([built.model], batch)
    assert (logits(stock, batch) - logits(built.model, batch)).abs().max() > 1e-2, "of the whole network"
    for mine, theirs in zip(found, expected, strict=True):
        assert [beam["tokens"].tolist() for beam in mine] == [beam["tokens"].tolist() for beam in theirs]


def test_ctranslate2(build: Build, toy_data: Path, tmp_path: Path) -> None:
    """The conversion compares beams; the file is smaller than that of the whole network."""
    pytest.importorskip("ctranslate2")
    pruned(build, tmp_path / "source.pt")
    text = tmp_path / "text"
    text.write_text("".join(f"{word} \n" for word in ("ba be bi", "do du", "fa fe fi fo fu")))
    sizes = {}
    for level in ("perturbed", "super"):
        folder = convert(tmp_path / "source.pt", level, tmp_path / level, "--verify-on", str(text), to="ctranslate2")
        sizes[level] = (folder / "model.bin").stat().st_size
    lines = ["ba be bi", "do du"]
    assert [DeployedFolder.read(tmp_path / name).network for name in sizes] == ["perturbed", "super"]
    assert Translator(tmp_path / "perturbed", "perturbed")(lines) == Translator(tmp_path / "perturbed")(lines)
    for held, other in (("perturbed", "super"), ("super", "perturbed")):
        with pytest.raises(ValueError, match=rf"--level is {other} and .* holds the {held} \(level"):
            Translator(tmp_path / held, other)
    # Half of 64 and of 48 neurons of two layers each: rows, columns and biases of 32 + 32 + 1 numbers.
    assert sizes["super"] - sizes["perturbed"] == pytest.approx(4 * 2 * (32 + 24) * 65, rel=0.01)


def test_the_card_has_its_own_numbers(build: Build, tmp_path: Path) -> None:
    """Of two networks with the same file, level and updates."""
    path = pruned(build, tmp_path / "source.pt").path
    measured = {"checkpoint": "RUN/source.pt", "level": 2, "updates": 5}
    record = {"networks": [measured | {"name": "super", "bleu": 30.0}, measured | {"name": "perturbed", "bleu": 20.0}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    for level, title, bleu in (("perturbed", "perturbed network", "20.00"), ("super", "super-network", "30.00")):
        card = model_card(read_source(path, level), "FSMTForConditionalGeneration")
        assert f"# en → de: {title}\n" in card
        assert re.findall(r"BLEU, test set, beam None \| (\S+)", card) == [bleu]


def test_networks_that_cannot_be_taken_out(build: Build, tmp_path: Path) -> None:
    pruned(build, tmp_path / "weights.pt", unit="weight")
    save_checkpoint(build(*SMALL_WIDTH), tmp_path / "standard.pt")
    for name in ("weights.pt", "standard.pt"):
        with pytest.raises(SystemExit, match="has no neurons that --scheme prune chose"):
            convert(tmp_path / name, "perturbed", tmp_path / "stock.pt")
        assert not (tmp_path / "stock.pt").exists()

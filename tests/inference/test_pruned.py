"""What ``--scheme prune`` leaves is evaluated and translated with as one more network of its run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq_ats.inference.evaluation import load, networks_of
from fairseq_ats.inference.translator import Translator
from tests.support.conversions import convert, logits, save_checkpoint

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25".split()
PRUNE = ["--scheme", "prune", "--scheme-args", '{"sparsity": 0.5, "end": 1, "every": 1, "unit": "neuron"}']


def test_it_is_a_network_of_the_run(build: Build, toy_data: Path, batch: dict[str, Any], tmp_path: Path) -> None:
    built = build(*SMALL_WIDTH, *PRUNE)
    built.task.scheme.update(1)
    save_checkpoint(built, tmp_path / "checkpoint_best.pt")
    networks = networks_of(tmp_path)
    assert [network.name for network in networks] == ["super", "core", "perturbed"]
    (whole, _), (pruned, _) = (load(network, toy_data) for network in networks[::2])
    # Of 64 and of 48 neurons in two layers each half, with a row, a bias and a column of 65 numbers.
    assert networks[0].parameters - networks[2].parameters == 2 * (32 + 24) * 65
    built.model.eval()
    with built.task.scheme.validation_points(1)[0].reference.of(built.model):
        torch.testing.assert_close(logits(pruned, batch), logits(built.model, batch), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(whole, batch), logits(pruned, batch), rtol=0, atol=1e-2)
    stock = convert(tmp_path / "checkpoint_best.pt", "perturbed", tmp_path / "stock.pt")
    lines = ["ba be bi", "do du", "fa fe fi fo fu"]
    translated = Translator(tmp_path / "checkpoint_best.pt", "perturbed", data=toy_data, beam=2, max_len_b=12)(lines)
    assert translated == Translator(stock, data=toy_data, beam=2, max_len_b=12)(lines)
    assert translated != Translator(tmp_path / "checkpoint_best.pt", data=toy_data, beam=2, max_len_b=12)(lines)
    save_checkpoint(built, tmp_path / "checkpoint_best_perturbed.pt")
    names = [network.checkpoint.path.name for network in networks_of(tmp_path)]
    assert names == ["checkpoint_best.pt", "checkpoint_best.pt", "checkpoint_best_perturbed.pt"]


def test_other_runs_have_none(build: Build, toy_data: Path, tmp_path: Path) -> None:
    unit_weight = [one.replace("neuron", "weight") for one in PRUNE]
    for options in ([], unit_weight):
        built = build(*SMALL_WIDTH, *options)
        built.task.scheme.update(1)
        save_checkpoint(built, tmp_path / "checkpoint_best.pt")
        assert [network.name for network in networks_of(tmp_path)] == ["super", "core"]
        with pytest.raises(ValueError, match="has no neurons that --scheme prune chose"):
            Translator(tmp_path / "checkpoint_best.pt", "perturbed", data=toy_data)

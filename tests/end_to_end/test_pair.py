"""A pair of networks, trained, resumed and decoded by real commands."""

from __future__ import annotations

import shutil
from pathlib import Path

from fairseq_ats.translate import Translator
from tests.end_to_end.test_training import events
from tests.support.checkpoints import differences, load
from tests.support.command_line import BLEU, train
from tests.support.conversions import convert

PAIR = ["--extension-arch", "transformer_tiny", "--extension-args", '{"decoder_layers": 1, "dropout": 0.2}']


def test_a_run_of_a_pair(toy_data: Path, tmp_path: Path) -> None:
    """ATS with monitor and validation; resumed without the extension's options, bit for bit; both translate."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    common = ["--alternate", *BLEU, "--validate-interval-updates", "2", "--save-interval-updates", "2"]
    common += ["--criteria-interval", "2"]
    log = train(toy_data, whole, 4, *common, *PAIR, "--log-format", "json")
    assert {"core_bleu", "bleu", "core_loss"} <= {n.removeprefix("valid_") for n in events(log, "valid")[-1]}
    assert float(events(log, "train_inner")[0]["c_norm"]) > 1
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_1_2.pt", resumed / "checkpoint_last.pt")
    train(toy_data, resumed, 4, *common)
    for name in ("checkpoint_last.pt", "checkpoint_best_core.pt"):
        assert not differences(load(whole / name), load(resumed / name)), name

    best = whole / "checkpoint_best_core.pt"
    few = tmp_path / "few.en"
    few.write_text("".join((toy_data / "test.en").read_text().splitlines(keepends=True)[:3]))
    core = convert(best, "core", tmp_path / "core.pt", "--verify-on", str(few), "--beam", "2", to="core")
    lines = few.read_text().splitlines()
    of_core, of_both = (Translator(best, level=n, data=toy_data, max_len_b=8)(lines) for n in ("core", "super"))
    assert Translator(core, data=toy_data, max_len_b=8)(lines) == of_core != of_both

"""``fairseq-ats-convert --to core``: what training with ``--max-level 1`` would have saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_ats.checkpoints.reading import read_checked
from fairseq_ats.cli.translate import main as translate
from fairseq_ats.cost.cost import model_of_checkpoint
from fairseq_ats.partition.partition import Partition
from tests.fixtures import OF_TRAINED
from tests.support.checkpoints import differences, read_partition
from tests.support.command_line import train
from tests.support.conversions import convert, load, logits, save_checkpoint


def to_core(checkpoint: Path, output: Path, *options: str) -> Path:
    return convert(checkpoint, "core", output, *options, to="core")


def test_the_core_is_bit_for_bit_the_same(
    build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path, batch: dict[str, Any], module_name: str
) -> None:
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", "--max-target-positions", "12"]
    source = save_checkpoint(build(*options), tmp_path / "source.pt")
    few = tmp_path / "few.en"
    few.write_text("".join((toy_data / "test.en").read_text().splitlines(keepends=True)[:3]))
    path = to_core(source, tmp_path / "core.pt", "--verify-on", str(few), "--beam", "2")
    assert torch.equal(logits(load(path, toy_data), batch), logits(load(source, toy_data, max_level=1), batch))
    assert read_partition(str(path)) == Partition(module_name, 0.25, 1)

    state = torch.load(path, weights_only=True)
    alone = build(*options, "--max-level", "1").model.state_dict()
    assert {k: v.shape for k, v in state["model"].items()} == {k: v.shape for k, v in alone.items()}
    # Only views of the extension's memory could make the file larger than its tensors.
    tensors = sum(t.nbytes for t in {t.data_ptr(): t for t in state["model"].values()}.values())
    assert path.stat().st_size < tensors + 60_000


def test_one_more_update_of_the_core_is_that_of_the_alternating_run(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path
) -> None:
    """After an even update the next one trains the core: alone or inside its super-network, to the same bits."""
    (source,) = two_trained_networks.glob("checkpoint_*_101.pt")
    after = torch.load(two_trained_networks / "checkpoint_last.pt", weights_only=True)
    assert after["optimizer_history"][-1]["num_updates"] == 102
    run = tmp_path / "run"
    run.mkdir()
    to_core(source, run / "checkpoint_last.pt", "--keep-optimizer-state")
    train(toy_data, run, 102, "--max-level", "1", *OF_TRAINED)
    found = torch.load(run / "checkpoint_last.pt", weights_only=True)
    assert found["optimizer_history"][-1]["num_updates"] == 102
    before = torch.load(source, weights_only=True)["model"]
    assert len(found["model"]) < len(after["model"])
    for name, value in found["model"].items():
        assert torch.equal(value, after["model"][name]), name
        assert name.endswith("version") or not torch.equal(value, before[name]), name
    assert set(found) == set(after)
    assert set(found["extra_state"]) <= set(after["extra_state"])


def test_the_optimizer_state_is_left_out_unless_asked_for(two_trained_networks: Path, tmp_path: Path) -> None:
    source = two_trained_networks / "checkpoint_last.pt"
    state = torch.load(to_core(source, tmp_path / "core.pt"), weights_only=True)
    assert "last_optimizer_state" not in state
    torch.save(state, tmp_path / "without.pt")
    with pytest.raises(SystemExit, match=r"--keep-optimizer-state: .* was saved with --no-save-optimizer-state"):
        to_core(tmp_path / "without.pt", tmp_path / "again.pt", "--keep-optimizer-state")

    whole = torch.load(source, weights_only=True)
    whole["last_optimizer_state"]["param_groups"][0]["params"].pop()
    torch.save(whole, tmp_path / "flat.pt")
    with pytest.raises(SystemExit, match="--keep-optimizer-state needs one entry for each of the"):
        to_core(tmp_path / "flat.pt", tmp_path / "again.pt", "--keep-optimizer-state")
    assert not (tmp_path / "again.pt").exists()

    once_more = torch.load(to_core(tmp_path / "core.pt", tmp_path / "twice.pt"), weights_only=True)
    assert str(once_more) == str(state), "a core alone stays what it is"


@pytest.mark.parametrize(
    ("metric", "other", "best"),
    [("loss", {"metric": "core_loss", "best": 3.0}, 3.0), ("core_loss", {"metric": "loss", "best": 3.0}, 2.0)],
)
def test_options_and_progress_are_the_cores(
    build: Callable[..., SimpleNamespace], tmp_path: Path, metric: str, other: dict[str, Any], best: float
) -> None:
    """``best`` in the checkpoint is by --best-checkpoint-metric, the task's entry is of the other network."""
    source = save_checkpoint(build("--alternate", "--best-checkpoint-metric", metric), tmp_path / "source.pt")
    whole = torch.load(source, weights_only=True)
    task = "TranslationWithPartitionedModelTask"
    averages = {name: {"encoder.layers.0.fc1.extension_weight": torch.ones(1), "a": torch.ones(1)} for name in ("ema",)}
    whole["extra_state"] |= {"best": 2.0, task: other, **averages}
    torch.save(whole, source)
    state = torch.load(to_core(source, tmp_path / "core.pt"), weights_only=True)
    assert state["extra_state"]["best"] == best
    assert task not in state["extra_state"]
    assert list(state["extra_state"]["ema"]) == ["a"]
    for options in (state["cfg"]["task"], vars(state["cfg"]["model"])):
        assert (options["max_level"], options["alternate"]) == (1, False)
    assert state["cfg"]["checkpoint"]["best_checkpoint_metric"] == "loss"


def test_only_a_core_can_be_taken_out_alone(build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    source = save_checkpoint(build(), tmp_path / "source.pt")
    with pytest.raises(SystemExit, match="--to core is the core alone, and --level is 2; allowed: 1"):
        convert(source, "super", tmp_path / "core.pt", to="core")
    with pytest.raises(SystemExit, match="--dense has no meaning with --to core"):
        to_core(source, tmp_path / "core.pt", "--dense")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.pt"]


def test_safetensors_are_the_same_checkpoint(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = two_trained_networks / "checkpoint_last.pt"
    files = [
        to_core(source, tmp_path / f"core{suffix}", "--keep-optimizer-state") for suffix in (".pt", ".safetensors")
    ]
    plain, safe = (read_checked(str(path)) for path in files)
    assert plain["cfg"] == safe["cfg"]
    assert not differences(plain, safe)
    # What fairseq's commands and a training read: by fairseq's own function.
    read = [checkpoint_utils.load_checkpoint_to_cpu(str(path), {"dropout": 0.3}) for path in files]
    assert read[0]["cfg"] == read[1]["cfg"]
    assert read[1]["cfg"].model.dropout == 0.3
    assert not differences(*read)
    translated = []
    for path in files:
        translate([str(path), "--input", str(toy_data / "test.en"), "--output", str(tmp_path / "out"), "--beam", "1"])
        translated.append((tmp_path / "out").read_text())
    assert translated[0] == translated[1] != "\n" * 40
    counted = [sum(p.numel() for p in model_of_checkpoint(str(path))[1].parameters()) for path in files]
    assert counted[0] == counted[1]

    content = files[1].read_bytes()
    files[1].write_bytes(content[:-3] + bytes([content[-3] ^ 8]) + content[-2:])
    with pytest.raises(SystemExit):
        translate([str(files[1]), "--input", str(toy_data / "test.en"), "--output", str(tmp_path / "damaged")])
    assert "is damaged: its SHA-256 is another" in capsys.readouterr().err
    assert not (tmp_path / "damaged").exists()

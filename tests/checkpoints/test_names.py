"""--checkpoint-suffix is a part of every checkpoint's name, wherever one is written or looked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_ats.inference.evaluation import networks_of
from fairseq_ats.options.checks import partition_problems
from fairseq_ats.training.best_checkpoints import BestOfNetwork
from tests.checkpoints.test_average import averaged, checkpoint, refusal
from tests.fixtures import OUR_TASK
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]
SUFFIX = ["--checkpoint-suffix", "_a"]


@pytest.fixture(scope="module")
def folder(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with a suffix that has ended after 5 updates."""
    folder = tmp_path_factory.mktemp("run")
    path = save_checkpoint(build("--small-ratio", "0.25", *SUFFIX), folder / "checkpoint_last_a.pt")
    state = torch.load(path, weights_only=True)
    best = {"metric": "core_loss", "best": 3.0, "value": 4.0}
    state["extra_state"] |= {"TranslationWithPartitionedModelTask": best, "metrics": {}}
    torch.save(state | {"last_optimizer_state": {}}, path)
    shutil.copy(path, folder / "checkpoint_best_a.pt")
    shutil.copy(path, folder / "checkpoint_best_core_a.pt")
    return folder


def test_best_of_the_other_network_has_the_suffix(tmp_path: Path) -> None:
    """Also where fairseq pruned the file that it had written, and another run's last checkpoint lies there."""
    best = BestOfNetwork("core", "core_loss", maximize=False, suffix="_a")
    (tmp_path / "checkpoint_last.pt").write_text("another run")
    (tmp_path / "checkpoint_last_a.pt").write_text("this run")
    best.validated({"core_loss": 1.0})
    best.state_to_save()
    best.saved(str(tmp_path / "checkpoint_1_5_a.pt"))
    assert (tmp_path / "checkpoint_best_core_a.pt").read_text() == "this run"
    assert not (tmp_path / "checkpoint_best_core.pt").exists()


def test_a_run_with_a_suffix_goes_on(build: Build, folder: Path) -> None:
    save_dir = ["--save-dir", str(folder)]
    (best,) = build(*save_dir, *SUFFIX, "--max-update", "6").task.best_of_other_networks
    assert (best.best, best.file_name) == (3.0, "checkpoint_best_core_a.pt")
    with pytest.raises(ValueError, match=r"--small-ratio is 0\.5 and .*checkpoint_last_a\.pt was trained with 0\.25"):
        build(*save_dir, *SUFFIX, "--small-ratio", "0.5")
    with pytest.raises(SystemExit) as finished:
        build(*save_dir, *SUFFIX, "--max-update", "5")
    assert finished.value.code == 0
    (new,) = build(*save_dir, "--max-update", "5").task.best_of_other_networks
    assert (new.best, new.file_name) == (float("inf"), "checkpoint_best_core.pt")


def test_restore_file_and_suffix(build: Build, folder: Path) -> None:
    """fairseq puts the suffix into this name as well."""
    restore = ["--restore-file", str(folder / "checkpoint_best.pt")]
    with pytest.raises(ValueError, match=r"--small-ratio is 0\.5 and .*checkpoint_best_a\.pt was trained with"):
        build(*restore, *SUFFIX, "--small-ratio", "0.5")
    build(*restore, "--small-ratio", "0.5")


@pytest.mark.parametrize("extra", [SUFFIX, ["--checkpoint-shard-count", "2"]])
def test_the_file_that_is_decoded_is_checked(toy_data: Path, tmp_path: Path, extra: list[str]) -> None:
    for name in ("checkpoint_a.pt", "checkpoint_part0.pt"):
        (tmp_path / name).write_bytes(b"damaged")
    arguments = [str(toy_data), "--task", OUR_TASK, "--path", str(tmp_path / "checkpoint.pt"), *extra]
    parsed = options.parse_args_and_arch(options.get_generation_parser(), input_args=arguments)
    (problem,) = partition_problems(convert_namespace_to_omegaconf(parsed).task)
    assert "(7 bytes) cannot be read as a checkpoint" in problem


def test_averages_of_a_run_with_a_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another run has checkpoints of the same epochs in the folder, and better ones."""
    for epoch in (1, 2):
        checkpoint(tmp_path / f"checkpoint{epoch}.pt", epoch, val_loss=0.1)
        checkpoint(tmp_path / f"checkpoint_1_{epoch}.pt", epoch, val_loss=0.1)
        checkpoint(tmp_path / f"checkpoint{epoch}_a.pt", 10 * epoch, val_loss=2.0, suffix="_a")
        checkpoint(tmp_path / f"checkpoint_1_{epoch}_a.pt", 100 * epoch, val_loss=3.0, suffix="_a")
    expected = {"--last-epochs": (15.0, 1.5), "--last-updates": (150.0, 1.5), "--best": (15.0, 1.5)}
    for choice, (with_suffix, without) in expected.items():
        state = averaged(tmp_path, choice, "2", *SUFFIX, tmp_path / "mean.pt")
        assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), with_suffix)), choice
        state = averaged(tmp_path, choice, "2", tmp_path / "mean.pt")
        assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), without)), choice
    arguments = ["--last-epochs", 1, "--checkpoint-suffix", "_b", "--output", tmp_path / "mean.pt"]
    assert "has 0 checkpoint(s) of an epoch" in refusal(capsys, tmp_path, *arguments)


def test_networks_of_a_run_with_a_suffix(folder: Path) -> None:
    networks = networks_of(folder, "_a")
    assert [(network.name, network.checkpoint.path.name) for network in networks] == [
        ("super", "checkpoint_best_a.pt"),
        ("core", "checkpoint_best_core_a.pt"),
    ]


def test_networks_of_two_runs_in_one_folder(folder: Path, tmp_path: Path) -> None:
    """The core of an earlier run with another ratio is not decoded as this one's."""
    shutil.copy(folder / "checkpoint_best_a.pt", tmp_path / "checkpoint_best.pt")
    checkpoint(tmp_path / "checkpoint_best_core.pt", 5, task={"_name": OUR_TASK})
    with pytest.raises(ValueError, match=r"checkpoint_best\.pt and checkpoint_best_core\.pt come from different runs"):
        networks_of(tmp_path)

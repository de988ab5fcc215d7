"""What may be unpickled, and what a checkpoint says of itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq_ats.checkpoints.reading import read_header
from fairseq_ats.partition.partition import Partition
from fairseq_ats.training.best_checkpoints import BestOfNetwork, best_of_other_networks
from tests.support.checkpoints import read_partition

Build = Callable[..., SimpleNamespace]


class Code:
    """Unpickled without care, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "extra": Code(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="holds more than weights and options"):
        read_partition(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the file above was harmless, and the test could not fail"


def test_partition_is_read_back(tmp_path: Path) -> None:
    partition = Partition("PartitionedLinear", 0.25, 1)
    torch.save({"model": {}, "task_state": {"partition": partition.to_dict()}}, tmp_path / "a.pt")
    assert read_partition(str(tmp_path / "a.pt")) == partition
    torch.save({"model": {}, "task_state": {}}, tmp_path / "b.pt")
    assert read_partition(str(tmp_path / "b.pt")) is None
    for malformed in ({"partition": 3}, {"partition": {"ratio": 1}}, {"partition": {"small_ratio": "x"}}):
        torch.save({"model": {}, "task_state": malformed}, tmp_path / "c.pt")
        with pytest.raises(ValueError, match="partition cannot be read"):
            read_partition(str(tmp_path / "c.pt"))


@pytest.mark.parametrize(
    "state",
    [
        {"weights": {}},
        [1],
        {"model": [1]},
        {"model": {"a": 3}},
        {"model": {}, "cfg": 3},
        {"model": {}, "args": {}},
        {"model": {}, "task_state": [1]},
        {"model": {}, "extra_state": "x"},
        {"model": {}, "optimizer_history": [{}]},
    ],
)
def test_another_kind_of_file_is_no_checkpoint(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="is not a fairseq checkpoint"):
        read_header(str(tmp_path / "c.pt"))


@pytest.mark.parametrize("kept", [0, 10, 300, -20])
def test_a_damaged_checkpoint_is_said_as_such(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"model": {"w": torch.zeros(100)}, "task_state": {}}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint; it is truncated"):
        read_partition(str(path))


def best_of_other(metric: str, maximize: bool) -> BestOfNetwork:
    """In a run of two networks."""
    (best,) = best_of_other_networks(Partition(), metric, maximize)
    return best


def validate_and_save(best: BestOfNetwork, folder: Path, value: float | None, **other: float) -> str | None:
    """One update and fairseq's hooks after it; returns what the best file then holds."""
    best.updated()
    if value is not None:
        best.validated({best.metric: value, **other})
        best.validated({best.metric: -1e9})  # a second validation subset does not count
    best.state_to_save()
    saved = folder / "checkpoint_last.pt"
    saved.write_text(str(value))
    best.saved(str(saved))
    kept = folder / best.file_name
    return kept.read_text() if kept.exists() else None


def test_best_of_the_other_network(tmp_path: Path) -> None:
    best = best_of_other("loss", maximize=False)
    assert (best.file_name, best.metric) == ("checkpoint_best_core.pt", "core_loss")
    history = [validate_and_save(best, tmp_path, value) for value in (3.0, 2.0, 2.5, None, 2.0, 1.0)]
    assert history == ["3.0", "2.0", "2.0", "2.0", "2.0", "1.0"]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_validation_without_a_save_does_not_count(tmp_path: Path) -> None:
    best = best_of_other("loss", maximize=False)
    best.validated({"core_loss": 1.0})
    assert validate_and_save(best, tmp_path, None) is None
    best.validated({"core_loss": 1.0})
    assert validate_and_save(best, tmp_path, 2.0) == "2.0"
    assert best.state_to_save()["best"] == 2.0


def test_a_checkpoint_that_fairseq_pruned(tmp_path: Path) -> None:
    best = best_of_other("loss", maximize=False)
    best.validated({"core_loss": 1.0})
    best.state_to_save()
    (tmp_path / "checkpoint_last.pt").write_text("last")
    best.saved(str(tmp_path / "checkpoint_1_5.pt"))
    assert (tmp_path / best.file_name).read_text() == "last"


def test_without_a_file_at_each_save_no_best_is_promised(build: Build) -> None:
    """fairseq writes none after some validations; nothing is lost where there is no other network to keep."""
    for options in (["--alternate"], ["--best-checkpoint-metric", "core_loss", "--keep-interval-updates", "1"]):
        with pytest.raises(ValueError, match=r"--no-last-checkpoints is given: .* checkpoint_best_(core|super)\.pt"):
            build("--no-last-checkpoints", *options)
    for allowed in (["--max-level", "1"], ["--no-save"], ["--disable-validation"]):
        build("--no-last-checkpoints", *allowed)


def test_a_metric_that_was_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = best_of_other("bleu", maximize=True)
    best.validated({"bleu": 1.0})
    assert best.state_to_save()["best"] == float("-inf")
    assert "core_bleu was not logged" in caplog.text


def test_best_survives_a_resume(tmp_path: Path) -> None:
    first = best_of_other("core_bleu", maximize=True)
    assert (first.file_name, first.metric) == ("checkpoint_best_super.pt", "bleu")
    validate_and_save(first, tmp_path, 30.0)
    resumed = best_of_other("core_bleu", maximize=True)
    resumed.load_state(first.state_to_save())
    assert validate_and_save(resumed, tmp_path, 29.0) == "30.0"
    assert validate_and_save(resumed, tmp_path, 31.0) == "31.0"
    other_metric = best_of_other("loss", maximize=False)
    other_metric.load_state(first.state_to_save())
    assert validate_and_save(other_metric, tmp_path / ".", 50.0) == "50.0"


def test_killed_before_the_best_was_copied(tmp_path: Path) -> None:
    first = best_of_other("loss", maximize=False)
    validate_and_save(first, tmp_path, 3.0)
    first.updated()
    first.validated({"core_loss": 2.0})
    state = first.state_to_save()
    (tmp_path / "checkpoint_last.pt").write_text("2.0")

    resumed = best_of_other("loss", maximize=False)
    resumed.load_state(state)
    resumed.saved(str(tmp_path / "checkpoint_last.pt"))
    assert (tmp_path / first.file_name).read_text() == "2.0"
    worse = best_of_other("loss", maximize=False)
    worse.load_state(state | {"value": 2.5})
    (tmp_path / "checkpoint_last.pt").write_text("2.5")
    worse.saved(str(tmp_path / "checkpoint_last.pt"))
    assert (tmp_path / first.file_name).read_text() == "2.0"

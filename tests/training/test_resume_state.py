"""What the plugin adds to fairseq's resume, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from omegaconf import OmegaConf

from fairseq_ats.checkpoints.keys import PATIENCE_KEY, TASK_CLASSES, states_of
from fairseq_ats.host.patience import patience_state, restore_patience
from fairseq_ats.training.resume import restore_metrics, why_finished
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]


def header(updates: int = 5, iterations: int = 5, **extra: Any) -> dict[str, Any]:
    extra_state = {"metrics": metrics.state_dict(), "train_iterator": {"iterations_in_epoch": iterations}}
    return {"optimizer_history": [{"num_updates": updates}], "extra_state": extra_state, **extra}


@pytest.mark.parametrize(
    ("max_update", "patience", "unimproved", "finished"),
    [
        (0, 0, 9, None),
        (6, 0, 9, None),
        (5, 0, 0, "it has 5 updates and --max-update is 5"),
        (4, 0, 0, "it has 5 updates and --max-update is 4"),
        (0, 2, 1, None),
        (0, 2, 2, "2 validations were no better than the best and --patience is 2"),
    ],
)
def test_finished(max_update: int, patience: int, unimproved: int, finished: str | None) -> None:
    options = SimpleNamespace(max_update=max_update, patience=patience)
    whole = header(last_optimizer_state={})
    assert why_finished(whole, {"num_runs": unimproved}, options) == finished
    assert why_finished(header(), {"num_runs": unimproved}, options) is None, "fairseq counts from 0 again"


def test_patience_is_reset_with_the_meters(build: Build) -> None:
    from fairseq_cli.train import should_stop_early

    saved = header(last_optimizer_state={}, task_state={})
    saved["extra_state"][PATIENCE_KEY] = {"best": 1.0, "num_runs": 2}
    with pytest.raises(SystemExit):
        build("--patience", "2").task._resume("run.pt", saved)
    vars(should_stop_early).clear()
    build("--patience", "2", "--reset-meters").task._resume("run.pt", saved)


def test_patience_goes_on() -> None:
    """Three validations without a gain, one of them before the restart."""
    from fairseq_cli.train import should_stop_early

    def validate(loss: float) -> bool:
        options = {"patience": 3, "maximize_best_checkpoint_metric": False}
        return should_stop_early(OmegaConf.create({"checkpoint": options}), loss)

    try:
        assert not any(validate(loss) for loss in (2.0, 1.0, 1.5))
        saved = patience_state()
        assert saved == {"best": 1.0, "num_runs": 1}
        vars(should_stop_early).clear()  # a new process
        restore_patience(saved)
        assert [validate(loss) for loss in (1.4, 1.3)] == [False, True]
    finally:
        vars(should_stop_early).clear()


@pytest.mark.parametrize("iterations", [5, 0], ids=["in an epoch", "between epochs"])
def test_metrics_go_on(iterations: int) -> None:
    """Averages go on over the restart; that of the epoch ends with it."""

    def update(loss: float) -> None:
        with metrics.aggregate("train"), metrics.aggregate("train_inner"):
            metrics.log_scalar("loss", loss)

    metrics.reset()
    try:
        update(1.0)
        update(2.0)
        saved = header(iterations=iterations)
        metrics.reset()  # a new process
        if iterations:
            metrics.load_state_dict(saved["extra_state"]["metrics"])  # as fairseq, before it calls the task
        restore_metrics(saved)
        update(6.0)
        of_epoch = 3.0 if iterations else 6.0
        for name, expected in (("default", 3.0), ("train_inner", 3.0), ("train", of_epoch)):
            assert metrics.get_smoothed_value(name, "loss") == expected, name
        assert metrics.get_meter("default", "loss").val == 6.0
    finally:
        metrics.reset()


@pytest.fixture
def checkpoint(build: Build, tmp_path: Path) -> Path:
    return save_checkpoint(build("--alternate"), tmp_path / "checkpoint.pt")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--decoder-attention-heads", "2"], "--decoder-attention-heads is 4 there and 2 here"),
        (["--activation-fn", "gelu"], "--activation-fn is relu there and gelu here"),
        (["--encoder-normalize-before"], "--encoder-normalize-before is False there and True here"),
    ],
)
def test_another_function_of_the_weights_is_refused(
    build: Build, checkpoint: Path, caplog: pytest.LogCaptureFixture, options: list[str], difference: str
) -> None:
    """Or warned of, where a run takes the weights only."""
    resumed = ["--alternate", "--restore-file", str(checkpoint)]
    with pytest.raises(ValueError, match=f"cannot resume .*, a model with other options: {difference}"):
        build(*resumed, *options)
    build(*resumed, *options, "--reset-optimizer")
    assert f"holds a model with other options: {difference}" in caplog.text
    caplog.clear()
    build(*resumed)
    assert "other options" not in caplog.text


def test_a_checkpoint_is_read_once(build: Build, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before fairseq's own loader reads its weights."""
    load, read = torch.load, []

    def counting(path: Any, *arguments: Any, **options: Any) -> Any:
        read.append(str(path))
        return load(path, *arguments, **options)

    monkeypatch.setattr(torch, "load", counting)
    build("--alternate", "--restore-file", str(checkpoint))
    assert read == [str(checkpoint)]


def test_a_checkpoint_without_metrics() -> None:
    """As of a core that was taken out of its run."""
    bare = header()
    bare["extra_state"]["metrics"] = {}
    restore_metrics(bare)


@pytest.mark.parametrize("options", [["--scheme", "core"], ["--alternate"]])
def test_every_run_is_told_of_its_resume(build: Callable[..., SimpleNamespace], options: list[str]) -> None:
    """fairseq calls set_checkpoint_dict, which brings metrics back, only if the task had saved something."""
    task = build(*options).task
    saved = task.get_checkpoint_dict()[type(task).__name__]
    assert saved
    for best in task.best_of_other_networks:
        best.load_state(saved)


def test_fairseq_finds_our_state_under_the_class(build: Callable[..., SimpleNamespace]) -> None:
    """The name of the task's class is a key in checkpoints, old and new."""
    task = build("--alternate").task
    assert type(task).__name__ in TASK_CLASSES
    (state,) = states_of(task.get_checkpoint_dict())
    assert state["metric"] == "core_loss"

"""What a checkpoint may make the commands build: none of these files runs what it brings."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, tasks

from fairseq_ats.cli import convert as convert
from fairseq_ats.cli import cost
from fairseq_ats.cli import translate as translate
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]
Change = Callable[[dict[str, Any], str], None]


def options_twice(state: dict[str, Any], code: str) -> None:
    """fairseq builds from ``args``, and ``cfg`` is harmless."""
    args = dict(vars(state["cfg"]["model"])) | {"task": "translation", "adaptive_softmax_cutoff": code}
    state["args"] = Namespace(**args)


def another_task(state: dict[str, Any], code: str) -> None:
    """A partition that fairseq's own task, which checks nothing, leaves alone."""
    state["cfg"]["task"]["_name"] = "translation"
    state["cfg"]["model"].adaptive_softmax_cutoff = code


def cutoff(state: dict[str, Any], code: str) -> None:
    state["cfg"]["model"].adaptive_softmax_cutoff = code


def nested_attention(state: dict[str, Any], code: str) -> None:
    state["cfg"]["model"].decoder = {"xformers_att_config": code}


def convert_it(checkpoint: Path) -> None:
    convert.main([str(checkpoint), "--level", "super", "--to", "fairseq", "--output", f"{checkpoint}.out"])


def translate_it(checkpoint: Path) -> None:
    translate.main([str(checkpoint)])


def count_its_cost(checkpoint: Path) -> None:
    cost.main([str(checkpoint)])


CHANGES = [options_twice, another_task, cutoff, nested_attention]


@pytest.mark.parametrize("command", [convert_it, translate_it, count_its_cost])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_in_a_checkpoint_runs(
    build: Build, tmp_path: Path, command: Callable[[Path], None], change: Change
) -> None:
    ran, path = tmp_path / "ran", save_checkpoint(build(), tmp_path / "evil.pt")
    state = torch.load(path, weights_only=True)
    change(state, f"__import__('os').mkdir({str(ran)!r})")
    torch.save(state, path)
    with pytest.raises(SystemExit):
        command(path)
    assert not ran.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["evil.pt"]


@pytest.mark.parametrize("change", [options_twice, another_task, nested_attention])
def test_fairseq_would_run_it(build: Build, tmp_path: Path, change: Change) -> None:
    """Otherwise the test above could not fail."""
    ran, path = tmp_path / "ran", save_checkpoint(build(), tmp_path / "evil.pt")
    state = torch.load(path, weights_only=True)
    change(state, f"__import__('os').mkdir({str(ran)!r})")
    torch.save(state, path)
    task = tasks.setup_task(build(task="translation", optimizer="adam").cfg.task)
    with pytest.raises((TypeError, AttributeError, RuntimeError, FileExistsError)):
        checkpoint_utils.load_model_ensemble_and_task([str(path)], task=task)
    assert ran.exists()

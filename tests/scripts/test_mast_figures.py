"""The commands that draw what MAST does: on quadratics, and on trained models."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName
from scripts.figures import mast_quadratics
from scripts.figures.sparsified_loss import KEPT, losses
from tests.fixtures import ROOT
from tests.support.conversions import save_checkpoint


def test_the_picture_of_quadratics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of few steps: with variance reduction the error falls further than without."""
    monkeypatch.setattr(sys, "argv", ["mast_quadratics", str(tmp_path / "picture"), "--steps", "300"])
    monkeypatch.setattr(mast_quadratics, "SAMPLES", 20)
    mast_quadratics.main()
    records = [json.loads(line) for line in (tmp_path / "picture.jsonl").read_text().splitlines()]
    last = {record["run"]: record["error"] for record in records if "update" in record}
    assert max(last["l-svrg"], last["page"]) < last["without variance reduction"]
    for record in records:
        if "gap" in record:
            assert abs(record["sampled"] - record["gap"]) <= 5 * record["error"] + 1e-9
    assert max(abs(record["gap"]) for record in records if record["run"] == "v = 1 x*") < 1e-9
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert "| page" in capsys.readouterr().out


def test_the_loss_of_sparsified_models(build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    """At the shift every sketch is the model itself; beside it, the more is kept the smaller is the difference."""
    options = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --scheme mast".split()
    built = build(*options, "--scheme-args", '{"shift": "start"}')
    built.task.scheme.update(0)
    at_start = Checkpoint.open(save_checkpoint(built, tmp_path / "start.pt", noise=0.0))
    found = dict(losses(at_start, "valid", 2))
    assert tuple(found) == KEPT
    assert all(value == pytest.approx(found[1.0][0], rel=1e-5) for values in found.values() for value in values)
    moved = dict(losses(Checkpoint.open(save_checkpoint(built, tmp_path / "moved.pt")), "valid", 2))
    whole = moved[1.0][0]
    assert whole != pytest.approx(found[1.0][0], rel=1e-3)
    far, near = (float((torch.tensor(moved[q]) - whole).abs().mean()) for q in (0.5, 0.95))
    assert far > near > 0


def test_trainings_of_mast() -> None:
    """The commands of the script; each scheme takes its arguments."""
    text = (ROOT / "scripts" / "reproduce_mast.sh").read_text()
    runs = text[text.index("runs() {") : text.index("watch mast")]
    prelude = "output=runs/mast/demo; listing=true; dry=true; run() { printf '%q ' \"$@\"; echo; }; draw() { :; }\n"
    done = subprocess.run(["bash", "-c", prelude + runs + "runs"], capture_output=True, text=True, check=True)
    calls = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [call[0] for call in calls] == ["standard", "mast_0.8", "mast_0.5", "start_1.0", "start_0.8", "start_0.5"]
    assert not [label for _, label, *_ in calls if "=" in label], "the figure reads LABEL=LOG"
    for call in calls[1:]:
        given = dict(pairwise(call))
        assert not SchemeOptions(SchemeName(given["--scheme"]), arguments=given["--scheme-args"]).problems(2)
        assert ("--init-from" in call) == ('"shift": "start"' in given["--scheme-args"])

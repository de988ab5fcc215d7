"""``scripts/gpu_check.sh``: one report, whatever fails; with a Python that only says what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures import ROOT

PYTHON = """#!/bin/sh
case "$*" in *is_available*) exit $NO_CARD;; *"$FAILS"*) echo "it breaks"; exit 3;; esac
echo "ran $*"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("scripts/gpu_check.sh", "configs/demo.yaml"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    return tmp_path


def check(checkout: Path, *arguments: str, card: bool = True, fails: str = "nothing") -> tuple[int, str]:
    environment = os.environ | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "FAILS": fails}
    done = subprocess.run(
        ["bash", "scripts/gpu_check.sh", *arguments],
        cwd=checkout,
        env=environment | {"NO_CARD": "0" if card else "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_without_a_card_it_says_so_and_leaves_nothing(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    status, said = check(checkout, card=False)
    assert status == 1
    assert "torch finds no CUDA device" in said
    assert check(checkout, "--help")[0] == 2
    assert sorted(checkout.rglob("*")) == before


def test_one_report(checkout: Path) -> None:
    status, said = check(checkout, "out/report.md")
    assert status == 0, said
    report = (checkout / "out/report.md").read_text()
    assert report.count("\npassed, ") == report.count("\n## ") == 6
    assert "ran -m pytest -q -p no:cacheprovider -m gpu tests/gpu" in report
    assert "ran -m fairseq_ats.cli evaluate" in report


def test_the_report_says_what_failed_and_goes_on(checkout: Path) -> None:
    status, said = check(checkout, fails="-m pytest")
    assert status == 1
    assert "in which something FAILED" in said
    report = (checkout / "gpu_check.md").read_text()
    tests = report[report.index("## Tests that need a card") : report.index("## Training, float32")]
    assert "**FAILED** (exit status 3)" in tests
    assert "it breaks" in tests
    assert report.count("\npassed, ") == 5
    status, said = check(checkout, fails="fairseq_ats.cli train")
    assert "**FAILED**" in (checkout / "gpu_check.md").read_text()[report.index("## Alternating") :]
    assert status == 1

"""``docs/demo.ipynb``: its cells are shell, its commands the README's, and they run from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import STAND_INS
from tests.fixtures import ROOT
from tests.test_documents import commands

NOTEBOOK = json.loads((ROOT / "docs/demo.ipynb").read_text())
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# Stands for every program of the notebook: writes down where and with what it is called.
PROGRAM = '#!/bin/sh\necho "$(basename "$0") $*" >>"$LOG"\n'


def test_it_is_a_clean_notebook() -> None:
    assert (NOTEBOOK["nbformat"], len({cell["id"] for cell in NOTEBOOK["cells"]})) == (4, len(NOTEBOOK["cells"]))
    assert all(cell.startswith("%%bash\n") for cell in CELLS)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK["cells"])


def run_cells(folder: Path, environment: dict[str, str]) -> str:
    """Run the cells one after another, as a kernel does; return what they print."""
    output = ""
    for cell in CELLS:
        script = cell.removeprefix("%%bash\n")
        done = subprocess.run(
            ["bash"], input=script, cwd=folder / "docs", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        output += done.stdout
    return output


def executed(folder: Path, **variables: str) -> list[str]:
    """Run the cells with stand-ins for all that takes long; return the calls."""
    log, programs = folder / "log", folder / "bin"
    programs.mkdir()
    for name in ("fairseq-ats", "python", "apt-get"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)} | variables
    run_cells(folder, environment)
    return log.read_text().splitlines()


def made_checkout(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for path in ("scripts/setup_env.sh", "scripts/demo.sh"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(PROGRAM.replace("$*", "$TORCH $*"))
        (folder / path).chmod(0o755)
    for path in (".venv/bin", "runs/demo", "docs"):
        (folder / path).mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()


def test_its_cells_run_from_top_to_bottom(tmp_path: Path) -> None:
    made_checkout(tmp_path)
    calls = executed(tmp_path, DEMO_OPTIONS="--max-update 50")
    assert calls[:2] == ["setup_env.sh cpu ", "demo.sh  --max-update 50"]
    assert [call.split()[:2] for call in calls[2:]] == [
        ["fairseq-ats", "translate"],
        ["fairseq-ats", "translate"],
        ["fairseq-ats", "convert"],
        ["python", "-"],
    ]


def test_its_commands_are_those_of_the_readme(tmp_path: Path) -> None:
    made_checkout(tmp_path)
    of_readme = {" ".join(command) for command in commands(ROOT / "README.md")}
    for call in executed(tmp_path):
        if call.startswith("fairseq-ats convert"):
            assert call.removesuffix(" --overwrite") in of_readme
        elif not call.startswith(("python", "fairseq-ats translate")):
            assert f"scripts/{call.split()[0]}" in of_readme


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="its cells use the environment in the root, .venv")
def test_it_runs_for_real(tmp_path: Path) -> None:
    """In a copy of the checkout with its environment; few sentences and few updates are the difference."""
    folder = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns(".*", "runs", "results", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "scripts/setup_env.sh").write_text("#!/bin/sh\n")
    corpus = folder / "scripts/demo/corpus.py"
    sizes = re.compile(r'"test": \d+, "valid": \d+, "train": \d+')
    assert len(sizes.findall(corpus.read_text())) == 1
    corpus.write_text(sizes.sub('"test": 8, "valid": 8, "train": 3000', corpus.read_text()))
    variables = {"PYTHONPATH": f"{folder}:{STAND_INS}", "DEMO_OPTIONS": "--max-update 4"}
    said = run_cells(folder, os.environ | variables)
    table = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")]
    assert table == ["network", "---", "super", "core"]
    model = folder / "runs/demo/super-hf/model.safetensors"
    assert model.is_file()
    assert re.fullmatch(r"\['.*'\]", said.splitlines()[-1]), "what transformers translated"

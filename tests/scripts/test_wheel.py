"""``scripts/wheel.sh``: the wheel of this plugin, and what it is in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PathDistribution
from pathlib import Path
from zipfile import ZipFile

import pytest

from fairseq_ats import __version__
from tests import STAND_INS
from tests.fixtures import ROOT


def run(command: list[str | Path], folder: Path, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=variables | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    names = ("fairseq_ats", "scripts", "tests", "README.md", "LICENSE", "pyproject.toml", "setup.py")
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    said = run(["bash", "scripts/wheel.sh"], folder, PYTHON=sys.executable)
    (made,) = (folder / "dist").iterdir()
    assert said.split()[1] == made.name == f"fairseq_ats-{__version__}-py3-none-any.whl"
    assert not (folder / "build").exists()
    return made


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if not name.startswith("fairseq_ats-")}
    assert names == {path.relative_to(ROOT).as_posix() for path in (ROOT / "fairseq_ats").rglob("*.py")}


def test_a_clean_environment_runs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """The environment has this one's packages, but not this checkout: neither PYTHONPATH nor .pth files lead there."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    run(install, tmp_path)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = "from importlib.util import find_spec; print(find_spec('fairseq_ats').origin)"
    assert run([python, "-c", found], tmp_path).strip() == str(site / "fairseq_ats/__init__.py")
    distribution = PathDistribution(next(site.glob("fairseq_ats-*.dist-info")))
    scripts = {entry.name for entry in distribution.entry_points}
    assert {"fairseq-ats", "fairseq-ats-average", "fairseq-ats-convert", "fairseq-ats-translate"} <= scripts
    assert {"deploy", "huggingface", "runtime"} <= set(distribution.metadata.get_all("Provides-Extra") or [])
    said = run([tmp_path / "venv/bin/fairseq-ats", "translate", "--help"], tmp_path)
    assert "usage: fairseq-ats translate" in said
    program = "import fairseq_ats, fairseq.tasks; print(*fairseq.tasks.TASK_REGISTRY)"
    registered = run([python, "-W", "ignore", "-c", program], tmp_path, PYTHONPATH=str(STAND_INS)).split()
    assert "translation_with_partitioned_model" in registered, "of a process that is not the command"

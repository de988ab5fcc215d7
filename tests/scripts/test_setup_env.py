"""``scripts/setup_env.sh``: which files it installs where, with a Python that only writes down what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Stands for Python and, as .venv/bin/python, for pip. It fails at arguments that hold a word of $FAILS.
PYTHON = """#!/bin/sh
for word in $FAILS; do case "$*" in *"$word"*) exit 1;; esac; done
case "$1 $2" in "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;; "-m pip") echo "$*" >>pip.log;; esac
case "$*" in *get_path*) echo "$PWD";; esac
"""
NO_WHEEL = "libc_ver"  # a word of the question whether the wheel fits


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup_env.sh", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("constraints.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for name in (
        "bash",
        "cat",
        "cut",
        "sha256sum",
        "sed",
        "rm",
        "cp",
        "mkdir",
        "tail",
        "dirname",
        "flock",
        "env",
        "sh",
    ):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for name in ("python3.11", "python3.12"):
        (tmp_path / "bin" / name).write_text(PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def set_up(checkout: Path, fails: str = "", **environment: str) -> tuple[int, str, list[str]]:
    """The exit status, what is said, and the files of requirements that pip was asked to install, in order."""
    variables = {"PATH": str(checkout / "bin"), "FAILS": fails, "HOME": str(checkout)} | environment
    shutil.rmtree(checkout / ".venv", ignore_errors=True)
    done = subprocess.run(
        ["bash", "scripts/setup_env.sh"],
        cwd=checkout,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = checkout / "pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return done.returncode, done.stdout, [line.rpartition("requirements/")[2] for line in lines if "-r" in line.split()]


LOCKED = ["lock/build.txt", "lock/torch.txt", "lock/torch_cpu.txt", "lock/tools.txt"]


def with_compiler(checkout: Path) -> Path:
    (checkout / "bin" / "c++").symlink_to("/bin/true")
    (checkout / "Python.h").touch()
    return checkout


def test_no_compiler_where_fairseq_is_compiled(checkout: Path) -> None:
    status, said, installed = set_up(checkout)
    assert status == 0, said
    assert installed == [*LOCKED, "fairseq_wheel.txt"]
    assert os.access(checkout / ".venv/bin/python", os.X_OK)


def test_one_option_builds_from_source(checkout: Path) -> None:
    for question in ({"FROM_SOURCE": "1"}, {"fails": NO_WHEEL}, {"PYTHON": "python3.11", "fails": NO_WHEEL}):
        status, said, installed = set_up(checkout, **question)
        assert (status, installed) == (1, [])
        assert "fairseq is built from source: needs a C++ compiler" in said
    status, said, installed = set_up(with_compiler(checkout), FROM_SOURCE="1")
    assert status == 0, said
    assert installed == [*LOCKED, "fairseq.txt"]
    assert set_up(checkout, fails=NO_WHEEL)[2] == [*LOCKED, "fairseq.txt"]


def test_python_3_12_comes_first(checkout: Path) -> None:
    assert set_up(checkout)[0] == 0
    (checkout / "bin/python3.12").write_text("#!/bin/sh\nexit 127\n")  # as pyenv's, where it is not chosen
    assert set_up(checkout)[0] == 0
    (checkout / "bin/python3.11").write_text("#!/bin/sh\nexit 127\n")
    status, said, _ = set_up(checkout)
    assert status == 1
    assert "allowed: a Python 3.11 or newer" in said


def test_the_build_of_torch(checkout: Path) -> None:
    assert "lock/torch_cpu.txt" in set_up(checkout)[2]
    unreachable = set_up(checkout, fails="download.pytorch.org")
    assert unreachable[0] == 0
    assert unreachable[2][1:3] == ["lock/torch.txt", "lock/torch_pypi.txt"]
    told = set_up(checkout, TORCH="cuda")[2]
    assert told[1:3] == ["lock/torch.txt", "lock/torch_pypi.txt"]
    (checkout / "bin" / "nvidia-smi").symlink_to("/bin/true")
    assert set_up(checkout)[2] == told
    assert "lock/torch_cpu.txt" in set_up(checkout, TORCH="cpu")[2]
    status, said, _ = set_up(checkout, TORCH="rocm")
    assert status == 1
    assert "TORCH is rocm; allowed: cpu, cuda" in said

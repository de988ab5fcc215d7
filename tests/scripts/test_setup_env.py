"""``scripts/setup_env.sh``: which files it installs where, with a Python that only writes down what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures import ROOT

# Stands for Python and, as .venv/bin/python, for pip. It fails where its name and arguments match a pattern of $FAILS.
PYTHON = """#!/bin/sh
for pattern in $FAILS; do case "NAME $*" in *$pattern*) exit 1;; esac; done
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
    for name in "bash cat cut sha256sum sed rm cp mkdir tail dirname flock env sh".split():
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for name in ("python3.11", "python3.12"):
        (tmp_path / "bin" / name).write_text(PYTHON.replace("NAME", name))
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


LOCKED = ["lock/torch_cpu.txt", "lock/build.txt", "lock/torch.txt", "lock/tools.txt"]
CUDA = ["lock/build.txt", "lock/torch.txt", "lock/torch_pypi.txt", "lock/tools.txt"]
OF_3_11 = "setup_env: takes python3.11 and torch's CPU build ("


def with_compiler(checkout: Path) -> Path:
    (checkout / "bin" / "c++").symlink_to("/bin/true")
    (checkout / "Python.h").touch()
    return checkout


def test_no_compiler_where_fairseq_is_compiled(checkout: Path) -> None:
    status, said, installed = set_up(checkout)
    assert status == 0, said
    assert "setup_env: takes python3.12 and torch's CPU build\n" in said
    assert installed == [*LOCKED, "fairseq_wheel.txt"]
    assert os.access(checkout / ".venv/bin/python", os.X_OK)


def test_one_option_builds_from_source(checkout: Path) -> None:
    for question in ({"FROM_SOURCE": "1"}, {"fails": NO_WHEEL}, {"PYTHON": "python3.11", "fails": NO_WHEEL}):
        status, said, installed = set_up(checkout, **question)
        assert (status, installed) == (1, [])
        assert "fairseq is built from source for it: needs a C++ compiler" in said
    status, said, installed = set_up(with_compiler(checkout), FROM_SOURCE="1")
    assert status == 0, said
    assert installed == [*LOCKED, "fairseq.txt"]
    assert set_up(checkout, fails=NO_WHEEL)[2] == [*LOCKED, "fairseq.txt"]


def test_python_3_12_only_with_the_cpu_build(checkout: Path) -> None:
    """Where its CPU build of torch is not to be had, 3.11 is taken, and not PyPI's gigabytes."""
    with_compiler(checkout)
    status, said, installed = set_up(checkout, fails="python3.12*download.pytorch.org python3.11*libc_ver")
    assert status == 0, said
    assert f"{OF_3_11}not python3.12: torch's CPU build is not to be had for it)" in said
    assert installed == [*LOCKED, "fairseq.txt"]


def test_a_python_that_is_not_usable_is_passed_over(checkout: Path) -> None:
    status, said, _ = set_up(checkout, fails="python3.12*ensurepip")
    assert status == 0, said
    assert f"{OF_3_11}not python3.12: it cannot make virtual environments" in said
    (checkout / "bin/python3.12").write_text("#!/bin/sh\nexit 127\n")  # as pyenv's, where it is not chosen
    assert "setup_env: takes python3.11 and torch's CPU build\n" in set_up(checkout)[1]
    (checkout / "bin/python3.11").write_text("#!/bin/sh\nexit 127\n")
    status, said, _ = set_up(checkout)
    assert status == 1
    assert "allowed: a Python 3.11 or newer" in said


def test_the_cuda_build_is_taken_with_a_word(checkout: Path) -> None:
    status, said, installed = set_up(checkout, fails="download.pytorch.org")
    assert status == 0, said
    assert "setup_env: takes python3.12 and PyPI's torch, with CUDA about 5 GB: no CPU build (not python3.12: " in said
    assert installed == [*CUDA, "fairseq_wheel.txt"]
    status, said, told = set_up(checkout, TORCH="cuda")
    assert "setup_env: takes python3.12 and torch with CUDA, about 5 GB\n" in said
    assert told == installed
    (checkout / "bin" / "nvidia-smi").symlink_to("/bin/true")
    assert set_up(checkout)[2] == told
    assert "lock/torch_cpu.txt" in set_up(checkout, TORCH="cpu")[2]
    status, said, _ = set_up(checkout, TORCH="rocm")
    assert status == 1
    assert "TORCH is rocm; allowed: cpu, cuda" in said

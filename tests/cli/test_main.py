"""The command ``fairseq-ats``: its sub-commands, and what it costs to ask for help."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from fairseq_ats import __version__
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.main import COMMANDS, main
from tests.fixtures import ROOT

# As the console script does; at the end it prints which of the slow packages were imported.
AS_INSTALLED = """
import sys
sys.argv = ["fairseq-ats", *sys.argv[1:]]
try:
    from fairseq_ats.cli.main import main
    main()
finally:
    print(sorted({"torch", "fairseq", "fairseq_ats.plugin"} & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", ["--help", "train --help", "launch --help", "binarise --help", "evaluate --help"])
def test_help_imports_no_torch(arguments: str) -> None:
    command = [sys.executable, "-c", AS_INSTALLED, *arguments.split()]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.startswith(f"usage: fairseq-ats {arguments.removesuffix('--help')}")
    assert said.endswith("[]\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fairseq-ats {command} ")


def test_version_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"fairseq-ats {__version__}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == 2
    assert "COMMAND is trian; allowed: binarise, train, launch, evaluate, " in capsys.readouterr().err


def test_console_scripts_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"fairseq-ats", "fairseq-ats-average", "fairseq-ats-convert", "fairseq-ats-translate"}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no"), KeyError("no")])
def test_errors_are_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, CommandParser("fairseq-ats x", None).errors_in_a_sentence(KeyError):
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"fairseq-ats x: error: {error}\n"


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    work = f"""
import os, signal
from fairseq_ats.cli.arguments import CommandParser
from fairseq_ats.files import written_whole
with CommandParser("x", None).errors_in_a_sentence(), written_whole({str(tmp_path / "out")!r}):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    stopped = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (stopped.returncode, stopped.stderr) == (143, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x"])
def test_counts_are_positive(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("fairseq-ats x", None)
    parser.add_argument("--n", type=positive)
    assert parser.parse_args(["--n", "12"]).n == 12
    with pytest.raises(SystemExit):
        parser.parse_args([f"--n={text}"])
    assert f"argument --n: {text} is not allowed; allowed: a whole number from 1 up" in capsys.readouterr().err


def test_the_package_names_no_file_of_a_checkout() -> None:
    """After ``pip install`` there is neither scripts/ nor docs/."""
    found = []
    for path in (ROOT / "fairseq_ats").rglob("*.py"):
        texts = [str(node.value) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        found += [f"{path}: {text}" for text in texts if "scripts/" in text or "docs/" in text]
    assert found == []
